"""Reading WebDataset shards: which there are, and their samples in tar order.

One reader serves the index, the teacher and the student, so that a sample's slot means the same to all three.
Members are grouped by webdataset's own rules; nothing is decoded here and nothing is ever unpickled.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from webdataset.tariterators import group_by_keys, tar_file_expander

from tinyvit.errors import UserError

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "bmp", "ppm", "tif", "tiff")


@dataclass(frozen=True)
class Sample:
    """A sample as it stands in the tar: its slot (0 first), key, encoded image, and label where there is one."""

    slot: int
    key: str
    image: bytes
    label: int | None


def list_shards(folder: Path) -> list[Path]:
    """The .tar files of a folder in the order of their names. UserError when there are none."""
    if not folder.is_dir():
        raise UserError(f"there is no data folder {folder}; give a folder of WebDataset .tar shards")
    shards = sorted(folder.glob("*.tar"))
    if not shards:
        raise UserError(f"the data folder {folder} holds no .tar shards; make some with `tinyvit data make`")
    return shards


def read_samples(shard: Path, stream: BinaryIO | None = None) -> Iterator[Sample]:
    """The samples of a shard, in tar order; `stream` reads the same bytes from elsewhere.

    UserError for a tar that cannot be read to its end, a sample without an image, a label that is no number.
    A tar cut between two members reads without any error: only the index's count shows it.
    """
    opened = stream or shard.open("rb")
    try:
        members = tar_file_expander(iter([{"url": str(shard), "stream": opened}]))
        for slot, fields in enumerate(group_by_keys(members)):
            yield _sample(shard, slot, fields)
    except (tarfile.TarError, EOFError) as fault:
        reason = str(fault.args[0] if fault.args else fault)
        raise UserError(f"{shard} is not a whole tar ({reason}); fetch or make it again") from None
    finally:
        if stream is None:
            opened.close()


def _sample(shard: Path, slot: int, fields: dict[str, bytes | str]) -> Sample:
    key = str(fields["__key__"])
    suffix = next((name for name in IMAGE_SUFFIXES if name in fields), None)
    if suffix is None:
        held = ", ".join(sorted(name for name in fields if not name.startswith("__"))) or "nothing"
        raise UserError(f"{shard}: the sample {key!r} has no image (it holds {held}); remake the shard")
    image = fields[suffix]
    text = fields.get("cls")
    label = None
    if text is not None:
        try:
            label = int(text)
        except ValueError:
            raise UserError(f"{shard}: the label of {key!r} is not a whole number; remake the shard") from None
    assert isinstance(image, bytes)
    return Sample(slot, key, image, label)


def class_names(folder: Path) -> list[str] | None:
    """The names in `classes.txt` of a shard folder or of the folder above it, in class-id order."""
    for place in (folder / "classes.txt", folder.parent / "classes.txt"):
        if place.is_file():
            return place.read_text().splitlines()
    return None
