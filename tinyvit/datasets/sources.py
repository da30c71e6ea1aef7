"""Images that are to be packed or evaluated on: an image folder, ImageNet-21k's archives (one a class), a CSV file.

Every file is taken, or counted as left out, or refused. The order of classes and images depends on names only.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tinyvit.classes import class_list, class_order
from tinyvit.data.folders import SORTED, entries, files, identity, is_file, is_folder, is_image, suffix_of, told
from tinyvit.datasets.archives import READ_FAULTS, Member, is_archive, members, refuse_packed
from tinyvit.errors import UserError

log = logging.getLogger("tinyvit")

# What the parts of a data set are called, and what they become.
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
# How other names of parts begin.
SPLIT = re.compile(r"(?i)(train|val|dev|eval|test|hold)")
NO_CLASS = "images in no class"
# Such a class would be lost in lists and on screens, and is a slip of the pen.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# Stands for a byte of a name that is not UTF-8.
SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class SourceImage:
    """An image to pack: its key, file suffix without the dot, encoded bytes or where they are, label."""

    key: str
    suffix: str
    content: bytes | Path | Member
    label: int

    def stamp(self) -> tuple[int, int]:
        """Bytes and time of change (ns since 1970) of the file that it is in; of an image in memory its length."""
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
        except READ_FAULTS as fault:
            raise UserError(f"{self.content} cannot be read ({fault}); mend the source, then make again") from fault


@dataclass(frozen=True)
class Source:
    """The images of a source, the names of all classes, also of those without an image, and how many files of each
    kind were left out.
    """

    images: list[SourceImage]
    classes: list[str]
    left_out: dict[str, int]

    @property
    def empty(self) -> list[str]:
        """The classes that have no image."""
        used = {image.label for image in self.images}
        return [name for number, name in enumerate(self.classes) if number not in used]


@dataclass(frozen=True, slots=True)
class _Found:
    """An image of a class that has no number yet, with its path below the source."""

    label: str
    path: str
    content: Path | Member


def images_of(source: Path) -> Source:
    """The images of a source and its classes.

    A CSV file has the columns `path` (beside the file, or absolute) and `label` (a class name). In a folder every
    sub-folder is a class, or every archive (.tar, .zip); both together are refused, and what holds train and val.
    UserError when there are no images.
    """
    if parts := _splits(source):
        inside = ", ".join(path.name for path in parts.values())
        raise UserError(f"{source} holds {inside}, each with folders of classes; give one of them")
    return _numbered(source, *_found(source))


def parts_of(source: Path) -> dict[str, Source]:
    """The same for what is to be packed: of train, val and test by their names, all with the classes of train; of any
    other source under an empty name. UserError for a class that train has not.
    """
    parts = _splits(source)
    if not parts:
        return {"": images_of(source)}
    if "train" not in parts:
        raise UserError(f"{source} holds {' and '.join(parts)}, but no train; pack each by itself")
    found = {name: _found(folder) for name, folder in parts.items()}
    classes = class_order(found["train"][1])
    for name, (_, own, _) in found.items():
        if unknown := sorted({*own} - {*classes}):
            raise UserError(
                f"{parts[name]} has the class {unknown[0]!r}, which {parts['train']} has not ({len(unknown)} such); "
                f"the classes of train are those of all: rename the folder, or add it to train, if only empty"
            )
    return {name: _numbered(parts[name], images, classes, out) for name, (images, _, out) in found.items()}


def is_image_folder(folder: Path) -> bool:
    """Whether a folder holds something, but no shards."""
    names = [entry.name for entry in entries(folder, Counter())]
    return bool(names) and not any(name.endswith(".tar") for name in names)


def unsorted(folder: Path) -> Source:
    """The images right in a folder, by name, all with the label 0 of no class."""
    left_out: Counter[str] = Counter()
    images = [
        _image(_Found("", entry.name, Path(entry.path)), 0)
        for entry in entries(folder, left_out)
        if not is_folder(entry) and is_file(entry, left_out) and _taken(entry.name, left_out)
    ]
    return Source(_unique(images), [], dict(+left_out))


def _found(source: Path) -> tuple[list[_Found], list[str], Counter[str]]:
    """The images of a source by class, the names of its classes, and what was left out."""
    left_out: Counter[str] = Counter()
    if source.suffix.lower() == ".csv" and source.is_file():
        found = list(_of_csv(source))
        return found, list({one.label for one in found}), left_out
    if not source.is_dir():
        raise UserError(f"there is no image folder {source}; give one with a sub-folder or archive a class, or a .csv")
    folders, archives = [], []
    for entry in entries(source, left_out):
        if is_folder(entry):
            folders.append(entry.name)
        elif is_file(entry, left_out):
            if is_archive(entry.name):
                archives.append(entry.name)
            elif _taken(entry.name, left_out):
                left_out[NO_CLASS] += 1
    if folders and archives:
        raise UserError(
            f"{source} holds folders ({folders[0]}) and archives ({archives[0]}), and either may be the classes; "
            f"leave one kind in it"
        )
    if archives:
        for name in archives:
            refuse_packed(source / name)
        classes = [Path(name).stem for name in archives]
        found = [one for name in archives for one in _of_archive(source / name, left_out)]
        if left_out[".cls"]:
            raise UserError(f"{source} holds shards, with labels in them, and no archives of classes; use it as it is")
    elif folders:
        classes = folders
        found = [one for name in folders for one in _of_folder(source, name, left_out)]
    elif left_out[NO_CLASS]:
        raise UserError(
            f"{source} holds {left_out[NO_CLASS]:,} images and no classes; {SORTED}, or list them in a .csv"
        )
    else:
        classes, found = [], []
    _refuse_mistaken(source, classes, found)
    return found, classes, left_out


def _numbered(source: Path, found: list[_Found], classes: Sequence[str], left_out: Counter[str]) -> Source:
    """Images with the numbers of their classes. UserError where there are none."""
    names = class_order(classes)
    for name in names:
        if name != name.strip() or CONTROL.search(name):
            raise UserError(
                f"{source} has a class {name!r}, with white space around it or a control character; rename it"
            )
    class_list(names)
    out = f"; left out: {told(+left_out)}" if left_out.total() else ""
    if not found:
        raise UserError(f"{source} has no images{out}; it needs a sub-folder or archive of them a class, or a .csv")
    numbers = {name: number for number, name in enumerate(names)}
    made = Source(_unique([_image(one, numbers[one.label]) for one in found]), names, dict(+left_out))
    empty = f", {len(made.empty):,} without any, such as {made.empty[0]}" if made.empty else ""
    log.info("%s: %s images of %s classes%s%s", source, f"{len(found):,}", f"{len(names):,}", empty, out)
    return made


def _splits(source: Path) -> dict[str, Path]:
    """The parts of a data set that a folder holds, each with classes in it; none where its entries are classes."""
    if not source.is_dir():
        return {}
    seen = _holders(source)
    parts = [(SPLITS[stem], path) for path in seen if (stem := path.name.partition(".")[0].lower()) in SPLITS]
    found, whole = dict(parts), len(parts) == len(seen)
    # A class may be called train, and others beside it.
    if not parts or not (whole or {"train"} < {*found}):
        return {}
    flat = [path for path in found.values() if not (path.is_dir() and _holders(path))]
    if flat and not whole:
        return {}
    names = ", ".join(path.name for path in seen)
    if not whole or len(found) < len(parts):
        raise UserError(f"{source} holds {names}: parts of a data set, and what is none or one twice; give one of them")
    if flat:
        raise UserError(
            f"{source} holds {names}, parts of a data set, but {flat[0].name} has no folders of classes; unpack it, "
            f"{SORTED}, or leave it out"
        )
    return {name: found[name] for name in dict.fromkeys(SPLITS.values()) if name in found}


def _holders(folder: Path) -> list[Path]:
    """What may hold the images of a class: the folders and archives in a folder."""
    return [Path(e.path) for e in entries(folder, Counter()) if is_folder(e) or is_archive(e.name)]


def _refuse_mistaken(source: Path, classes: list[str], found: list[_Found]) -> None:
    """Refuse two archives of one class, and a single class with folders in it, which are the classes then."""
    name, count = Counter(classes).most_common(1)[0] if classes else ("", 1)
    if count > 1:
        raise UserError(f"{source} has {count} archives of the class {name!r}; rename or join them")
    _refuse_parts(source, classes, found)
    names = (one.content.name if isinstance(one.content, Member) else one.path for one in found)
    inside = sorted({name.rpartition("/")[0] or "." for name in names})
    if len(classes) == 1 and len(inside) > 1:
        raise UserError(
            f"{source} holds {classes[0]} alone, and its images lie in {inside[0]} and {inside[1]}: if these are the "
            f"classes, give the folder that they are in (unpacked); if not, put all images into one"
        )


def _refuse_parts(source: Path, classes: list[str], found: list[_Found]) -> None:
    """Refuse classes that are called like parts of a data set and hold the same folders."""
    if len(classes) < 2 or not all(SPLIT.match(name) for name in classes):
        return
    inside: dict[str, set[str]] = {name: set() for name in classes}
    for one in found:
        _, *folders, _ = one.path.split("/")
        inside[one.label].update(folders[:1])
    if shared := sorted(set.intersection(*inside.values())):
        raise UserError(
            f"{source} holds {' and '.join(classes)}, each with {shared[0]} inside: parts of a data set, it seems; "
            f"call them train, val and test, or give one of them"
        )


def _of_folder(source: Path, name: str, left_out: Counter[str]) -> Iterator[_Found]:
    for file in files(source / name, left_out, (identity(source),)):
        if _taken(file.name, left_out):
            yield _Found(name, file.relative_to(source).as_posix(), file)


def _of_archive(archive: Path, left_out: Counter[str]) -> Iterator[_Found]:
    for member in members(archive, left_out):
        if _taken(member.name, left_out):
            # ImageNet names its files CLASS_NUMBER already.
            own = Path(member.name).name.partition(".")[0].startswith(archive.stem)
            yield _Found(archive.stem, member.name if own else f"{archive.stem}/{member.name}", member)


def _of_csv(source: Path) -> Iterator[_Found]:
    lines: dict[str, int] = {}
    try:
        with source.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, strict=True)
            names = rows.fieldnames or ()
            if not {"path", "label"} <= {*names} or len({*names}) < len(names):
                raise UserError(f"{source} needs the columns path and label, once each; it has {', '.join(names)}")
            for row in rows:
                where = f"{source}, line {rows.line_num}"
                if None in row or None in row.values():
                    raise UserError(f"{where} does not have {len(names)} values; mend the line")
                path = source.parent / row["path"]
                if not is_image(row["path"]) or not row["label"] or not path.is_file():
                    raise UserError(
                        f"{where}: {row['path']!r} with the label {row['label']!r} is no image; mend the line"
                    )
                if (before := lines.setdefault(os.path.normpath(path), rows.line_num)) != rows.line_num:
                    raise UserError(f"{where}: {row['path']!r} is in line {before} already; leave one of them")
                yield _Found(row["label"], row["path"], path)
    except UnicodeDecodeError as fault:
        raise UserError(f"{source} is not UTF-8; save it as UTF-8") from fault
    except csv.Error as fault:
        raise UserError(f"{source}, line {rows.line_num + 1}: {fault}; mend the line") from fault


def _taken(name: str, left_out: Counter[str]) -> bool:
    """Whether a file is an image; else it is counted by its suffix."""
    if is_image(name):
        return True
    left_out[suffix_of(name) or "without a suffix"] += 1
    return False


def _image(found: _Found, label: int) -> SourceImage:
    """An image whose key is its path without the suffix, made harmless."""
    stem, _, suffix = found.path.rpartition(".")
    return SourceImage(safe(stem.lstrip("/")), suffix.lower(), found.content, label)


def safe(key: str) -> str:
    """A key without what webdataset would take for a folder or a suffix, and what is no UTF-8."""
    return "".join(
        "_" if char in "/\\" else "-" if char == "." or char.isspace() or SURROGATE.match(char) else char
        for char in key
    )


def _unique(images: list[SourceImage]) -> list[SourceImage]:
    """Where several files would have one key, each gets a digest of its name behind it: the same in every run."""
    counts = Counter(image.key for image in images)
    return [
        image if counts[image.key] == 1 else replace(image, key=f"{image.key}-{_digest(image)}") for image in images
    ]


def _digest(image: SourceImage) -> str:
    where = image.content.name if isinstance(image.content, Member) else str(image.content)
    name = f"{where}.{image.suffix}".encode(errors="surrogateescape")
    return hashlib.blake2b(name, digest_size=4).hexdigest()
