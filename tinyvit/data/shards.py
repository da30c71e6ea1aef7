"""WebDataset shards: which members of a tar make a sample, where it lies in the tar, what its bytes hold.

Members are grouped by webdataset's own rules. A sample is one run of bytes of its tar, headers included, so that
one read by its offset gives it whole and says which key it has. Nothing is decoded here, nothing is ever unpickled,
and no name of a member ever reaches the file system.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, BinaryIO

from tinyvit.errors import UserError

# Of a sample the member with the first of these is its image, of a folder the files with any of them are images: what
# Pillow decodes by itself. Not what it hands to other programs or only tells from other files (eps, wmf, h5, mpg).
IMAGE_SUFFIXES = (
    "jpg", "jpeg", "png", "webp", "bmp", "ppm", "tif", "tiff",
    "jfif", "jpe", "gif", "avif", "pgm", "pbm", "pnm", "pfm", "jp2", "j2k", "j2c", "jpc", "jpf", "jpx",
    "apng", "avifs", "blp", "bw", "cur", "dcx", "dds", "dib", "fit", "fits", "flc", "fli", "ftc", "ftu", "gbr", "icb",
    "icns", "ico", "im", "msp", "pcd", "pcx", "psd", "pxr", "qoi", "ras", "rgb", "rgba", "sgi", "tga", "vda", "vst",
    "xbm", "xpm",
)  # fmt: skip
# A sample is read by its place, which a compressed tar does not have.
COMPRESSED_TARS = (
    ".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".tar.lz4", ".tar.z",
)  # fmt: skip

BLOCK = 512
# What webdataset leaves out: names such as __index__ or __meta__/x.
META = re.compile(r"__[^/]*__($|/)")
# A plain file's header: those of long names and extended attributes are left to tarfile.
PLAIN = (b"0", b"\0")


@dataclass(frozen=True)
class Sample:
    """A sample as it stands in the tar: its slot (0 first), key, encoded image, and label where there is one."""

    slot: int
    key: str
    image: bytes
    label: int | None


@dataclass(frozen=True)
class Extent:
    """Where a sample lies in its tar: the bytes [offset, offset + length), of members with these suffixes."""

    key: str
    offset: int
    length: int
    suffixes: tuple[str, ...]


def extents(shard: str, stream: BinaryIO) -> tuple[list[Extent], int]:
    """The samples of a tar in order, from `stream` read once, and where its members end; `shard` names it in errors.

    UserError for a tar that cannot be read. One that is cut between two members, or whose headers are damaged in
    the middle, reads without any error as a shorter one: only what stands where the members end shows it.
    """
    found = []
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=BLOCK * 2048) as tar:
            for fields in _rules().group_by_keys(_members(shard, tar)):
                places = {name: place for name, place in fields.items() if not name.startswith("__")}
                first = min(start for start, _ in places.values())
                last = max(end for _, end in places.values())
                found.append(Extent(str(fields["__key__"]), first, last - first, tuple(places)))
            return found, tar.offset
    except (tarfile.TarError, EOFError) as fault:
        reason = str(fault.args[0] if fault.args else fault)
        raise UserError(f"{shard} is not a whole tar ({reason}); fetch or make it again") from fault
    except UserError:
        raise
    except UnicodeEncodeError as fault:
        raise UserError(f"{shard} has a member whose name is not UTF-8; make it again") from fault
    except ValueError as fault:
        # group_by_keys on two members of one name
        raise UserError(f"{shard} is not a WebDataset tar ({fault.args[0]}); make it again") from fault


@cache
def _rules() -> Any:
    """webdataset's way of grouping members. It brings torch, for which who looks into a store need not wait."""
    import webdataset.tariterators

    return webdataset.tariterators


def _members(shard: str, tar: tarfile.TarFile) -> Iterator[dict[str, object]]:
    """The files of a tar as group_by_keys takes them, with (start, end) in place of their bytes."""
    for member in tar:
        if META.match(member.name) or member.isdir() or _rules().base_plus_ext(member.name)[0] is None:
            continue
        if not member.isreg() or member.issparse():
            raise UserError(
                f"{shard}: {member.name!r} is a link, a device or stored with holes; make the shard of plain files"
            )
        # Keys are digested as UTF-8; tarfile lets other bytes pass.
        member.name.encode()
        end = member.offset_data + -(-member.size // BLOCK) * BLOCK
        yield {"fname": member.name, "data": (member.offset, end), "__url__": shard}


def parse(shard: str, slot: int, content: bytes) -> Sample:
    """The sample that these bytes of a tar hold. UserError for one without an image or whose label is no number."""
    try:
        members = _plain_members(content) or _any_members(content)
    except tarfile.TarError as fault:
        raise UserError(f"{shard}: slot {slot} does not hold a sample ({fault}); fetch or make it again") from fault
    fields: dict[str, bytes] = {}
    key = ""
    for name, data in members:
        base, suffix = _rules().base_plus_ext(name)
        if base and suffix and not META.match(name):
            key, fields[suffix.lower()] = base, data
    return sample_of(shard, slot, key, fields)


def sample_of(shard: str, slot: int, key: str, fields: dict[str, bytes]) -> Sample:
    """A sample from the bytes of its members by suffix."""
    suffix = image_suffix(shard, key, tuple(fields))
    label = None
    if (text := fields.get("cls")) is not None:
        try:
            label = int(text)
        except ValueError as fault:
            raise UserError(f"{shard}: the label of {key!r} is not a whole number; remake the shard") from fault
    return Sample(slot, key, fields[suffix], label)


def image_suffix(shard: str, key: str, suffixes: tuple[str, ...]) -> str:
    """Which member of a sample is its image. UserError when none is."""
    suffix = next((name for name in IMAGE_SUFFIXES if name in suffixes), None)
    if suffix is None:
        held = ", ".join(sorted(suffixes)) or "nothing"
        raise UserError(f"{shard}: the sample {key!r} has no image (it holds {held}); remake the shard")
    return suffix


def _plain_members(content: bytes) -> list[tuple[str, bytes]] | None:
    """Names and bytes of plain files; None where a header is not plain. tarfile takes twenty times as long."""
    members = []
    start = 0
    while start + BLOCK <= len(content):
        header = content[start : start + BLOCK]
        if header[156:157] not in PLAIN or header[345:346] != b"\0" or header[124] & 0x80:
            return None
        try:
            name, size = header[:100].rstrip(b"\0").decode(), int(header[124:136].rstrip(b" \0"), 8)
        except ValueError:
            return None
        members.append((name, content[start + BLOCK : start + BLOCK + size]))
        start += BLOCK + -(-size // BLOCK) * BLOCK
    return members if start == len(content) else None


def _any_members(content: bytes) -> list[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(content + bytes(2 * BLOCK)), mode="r:") as tar:
        found = [(member.name, tar.extractfile(member)) for member in tar if member.isreg()]
        return [(name, file.read()) for name, file in found if file]
