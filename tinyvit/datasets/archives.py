"""Archives of images, tar and zip: their members, read where they lie. Nothing is ever unpacked to the disk."""

from __future__ import annotations

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tinyvit.data.folders import HIDDEN, hidden
from tinyvit.data.shards import COMPRESSED_TARS
from tinyvit.errors import UserError

ARCHIVES = (".tar", ".zip")
# Archives in which no member can be read by itself.
PACKED = (*COMPRESSED_TARS, ".7z", ".rar")
# Archives a process keeps open; each of 21,841 classes has its own.
OPEN_ARCHIVES = 128
# What zipfile raises for members that are encrypted, compressed in ways that it does not know, or damaged.
ZIP_FAULTS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, ValueError)
READ_FAULTS = (OSError, KeyError, EOFError, *ZIP_FAULTS)
BLOCK = 1 << 20


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
        """Its bytes. One of READ_FAULTS where they cannot be had."""
        if is_zip(self.archive):
            return _zip(self.archive).read(self.name)
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) != self.size:
            raise EOFError("it was cut short")
        return content


def is_archive(name: str) -> bool:
    """Whether a file of this name is an archive, one that can be read or not."""
    return name.lower().endswith((*ARCHIVES, *PACKED))


def is_zip(path: Path) -> bool:
    """Whether an archive is a zip; else it is a tar."""
    return path.suffix.lower() == ".zip"


def refuse_packed(path: Path) -> None:
    """Refuse an archive that is packed as a whole."""
    if path.name.lower().endswith(PACKED):
        raise UserError(f"{path} is packed as a whole, so that no image can be read by itself; unpack it first")


@lru_cache(OPEN_ARCHIVES)
def _zip(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def members(archive: Path, left_out: Counter[str]) -> list[Member]:
    """The files in an archive, by name. UserError for one that is cut or damaged, or several in one."""
    try:
        found = _zip_members(archive, left_out) if is_zip(archive) else _tar_members(archive, left_out)
    except UserError:
        raise
    except (tarfile.TarError, EOFError, OSError, *ZIP_FAULTS) as fault:
        raise UserError(f"{archive} is not a whole archive ({fault}); fetch it again") from fault
    name, count = Counter(member.name for member in found).most_common(1)[0] if found else ("", 1)
    if count > 1:
        raise UserError(f"{archive} has {count} files with the name {name!r}; unpack it, and pack it again")
    return sorted(found, key=lambda member: member.name)


def _zip_members(archive: Path, left_out: Counter[str]) -> list[Member]:
    found = []
    with zipfile.ZipFile(archive) as opened:
        listed = opened.infolist()
    first = min((member.header_offset for member in listed), default=0)
    with archive.open("rb") as file:
        # zipfile reads the last of two that were joined; before it a program may stand, which unpacks it.
        if first and file.read(4) == b"PK\3\4":
            raise zipfile.BadZipFile(f"its list of files begins at byte {first}: damaged, or joined of two")
    for member in listed:
        if member.is_dir():
            continue
        if member.flag_bits & 1:
            raise UserError(f"{archive} is encrypted; unpack it first")
        if hidden(member.filename):
            left_out[HIDDEN] += 1
        elif stat.S_ISLNK(member.external_attr >> 16):
            left_out["link in an archive"] += 1
        else:
            found.append(Member(archive, member.filename, 0, member.file_size))
    return found


def _tar_members(archive: Path, left_out: Counter[str]) -> list[Member]:
    found, plain = [], {}
    with tarfile.open(archive, "r:") as tar:
        for member in tar:
            if member.issparse():
                raise UserError(f"{archive}: {member.name!r} is stored with holes; unpack it, and pack it again")
            if member.isreg():
                plain[member.name] = member
            # Of two names of one file the second is a link, and the bytes stand at the first.
            data = plain.get(member.linkname) if member.islnk() else member
            if member.isdir():
                continue
            if hidden(member.name):
                left_out[HIDDEN] += 1
            elif data and data.isreg():
                found.append(Member(archive, member.name, data.offset_data, data.size))
            else:
                left_out["link in an archive" if member.issym() or member.islnk() else "no plain file"] += 1
        end = tar.offset
    with archive.open("rb") as file:
        file.seek(end)
        # tarfile takes a damaged header in the middle for the end, and so the end of the first of two.
        rest = [len(block) if not block.strip(b"\0") else 0 for block in iter(lambda: file.read(BLOCK), b"")]
        if not rest or rest[0] < tarfile.BLOCKSIZE or not all(rest):
            raise tarfile.ReadError(f"its members end at byte {end}: cut or damaged there, or joined of two")
    return found
