"""Pictures that are to be packed: an image folder, ImageNet-21k's archives (one a class), a CSV file."""

from __future__ import annotations

import csv
import hashlib
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from tinyvit.classes import class_order
from tinyvit.data.shards import IMAGE_SUFFIXES
from tinyvit.errors import UserError

ARCHIVES = (".tar", ".zip")
# Archives a process keeps open; each of 21,841 classes has its own.
OPEN_ARCHIVES = 128


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture to pack: its key, file suffix without the dot, encoded bytes or where they are, label."""

    key: str
    suffix: str
    content: bytes | Path | Member
    label: int

    def stamp(self) -> tuple[int, int]:
        """Bytes and time of change (ns since 1970) of the file that it is in; of a picture in memory its length."""
        if isinstance(self.content, bytes):
            return len(self.content), 0
        found = (self.content.archive if isinstance(self.content, Member) else self.content).stat()
        return found.st_size, found.st_mtime_ns

    def read(self) -> bytes:
        """The encoded bytes. UserError when they cannot be read any more."""
        if isinstance(self.content, bytes):
            return self.content
        try:
            return self.content.read_bytes()
        except (OSError, KeyError, zipfile.BadZipFile, EOFError) as fault:
            raise UserError(f"{self.content} cannot be read ({fault}); mend the source, then make again") from None


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive; of a tar by its place, of a zip by its name."""

    archive: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.name} in {self.archive}"

    def read_bytes(self) -> bytes:
        """Its bytes."""
        if self.archive.suffix == ".zip":
            return _zip(self.archive).read(self.name)
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@lru_cache(OPEN_ARCHIVES)
def _zip(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def pictures_of(source: Path) -> tuple[list[Picture], list[str]]:
    """The pictures of a source and the class names, in an order that depends on names only.

    A CSV file has the columns `path` (beside the file, or absolute) and `label` (a class name). In a folder, a
    sub-folder or an archive (.tar, .zip) is a class. UserError when there are none.
    """
    if source.suffix.lower() == ".csv" and source.is_file():
        labelled = list(_of_csv(source))
    elif not source.is_dir():
        raise UserError(f"there is no image folder {source}; give one with a sub-folder or archive a class, or a .csv")
    elif any(entry.suffix in ARCHIVES for entry in source.iterdir()):
        labelled = list(_of_archives(source))
    else:
        labelled = list(_of_folder(source))
    if not labelled:
        raise UserError(f"{source} has no pictures; it needs a sub-folder or an archive of them a class, or a .csv")
    classes = class_order(name for name, _ in labelled)
    numbers = {name: number for number, name in enumerate(classes)}
    return _unique([replace(picture, label=numbers[name]) for name, picture in labelled]), classes


def unsorted(folder: Path) -> list[Picture]:
    """The pictures right in a folder, by name, all with the label 0."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return [picture for file in files for _, picture in _picture("", file.name, file)]


def _of_folder(source: Path) -> Iterator[tuple[str, Picture]]:
    for folder in sorted(entry for entry in source.iterdir() if entry.is_dir()):
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            yield from _picture(folder.name, file.relative_to(source).as_posix(), file)


def _of_archives(source: Path) -> Iterator[tuple[str, Picture]]:
    for archive in sorted(entry for entry in source.iterdir() if entry.suffix in ARCHIVES):
        try:
            for member in sorted(_members(archive), key=lambda member: member.name):
                # ImageNet names its files CLASS_NUMBER already.
                stem = Path(member.name).name.partition(".")[0]
                name = member.name if stem.startswith(archive.stem) else f"{archive.stem}/{member.name}"
                yield from _picture(archive.stem, name, member)
        except (tarfile.TarError, zipfile.BadZipFile, EOFError) as fault:
            raise UserError(f"{archive} is not a whole archive ({fault}); fetch it again") from None


def _members(archive: Path) -> Iterable[Member]:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as opened:
            return [Member(archive, m.filename, 0, m.file_size) for m in opened.infolist() if not m.is_dir()]
    with tarfile.open(archive, "r:") as tar:
        found = [Member(archive, m.name, m.offset_data, m.size) for m in tar if m.isreg()]
        end = tar.offset
    # tarfile takes a damaged header in the middle for the end.
    with archive.open("rb") as file:
        file.seek(end)
        if file.read(512) != bytes(512):
            raise tarfile.ReadError(f"it is cut or damaged at byte {end}")
    return found


def _of_csv(source: Path) -> Iterator[tuple[str, Picture]]:
    with source.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if not {"path", "label"} <= {*(rows.fieldnames or ())}:
            raise UserError(f"{source} needs the columns path and label; it has {', '.join(rows.fieldnames or ())}")
        for row in rows:
            path = source.parent / row["path"]
            found = list(_picture(row["label"], row["path"], path))
            if not found or not row["label"] or not path.is_file():
                raise UserError(
                    f"{source}, line {rows.line_num}: {row['path']!r} with the label {row['label']!r} is no picture; "
                    f"mend the line"
                )
            yield from found


def _picture(label: str, name: str, content: Path | Member) -> Iterator[tuple[str, Picture]]:
    """The picture of a file, if it is one; its key is the file's name without the suffix, made harmless."""
    stem, _, suffix = name.rpartition(".")
    if suffix.lower() in IMAGE_SUFFIXES:
        yield label, Picture(safe(stem.lstrip("/")), suffix.lower(), content, 0)


def safe(key: str) -> str:
    """A key without what webdataset would take for a folder or a suffix."""
    return "".join("_" if char in "/\\" else "-" if char == "." or char.isspace() else char for char in key)


def _unique(pictures: list[Picture]) -> list[Picture]:
    """Where several files would have one key, each gets a digest of its name behind it: the same in every run."""
    counts = Counter(picture.key for picture in pictures)
    return [
        picture if counts[picture.key] == 1 else replace(picture, key=f"{picture.key}-{_digest(picture)}")
        for picture in pictures
    ]


def _digest(picture: Picture) -> str:
    where = picture.content.name if isinstance(picture.content, Member) else str(picture.content)
    return hashlib.blake2b(f"{where}.{picture.suffix}".encode(), digest_size=4).hexdigest()
