"""Making shards: pictures in, WebDataset .tar files out, whole or not at all."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from webdataset.writer import TarWriter

from tinyvit.data.shards import IMAGE_SUFFIXES
from tinyvit.errors import UserError


@dataclass(frozen=True)
class Picture:
    """A picture to pack: its key, file suffix without the dot, encoded bytes or the file that has them, label."""

    key: str
    suffix: str
    content: bytes | Path
    label: int


def from_image_folder(folder: Path) -> tuple[list[Picture], list[str]]:
    """The pictures of an image folder (a sub-folder a class, in the order of names) and the class names.

    Keys are CLASS_STEM, with what a key must not hold (dots, slashes, white space) made a dash.
    """
    if not folder.is_dir():
        raise UserError(f"there is no image folder {folder}; give one with a sub-folder of pictures a class")
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    pictures = [
        Picture(_safe(f"{name}_{file.stem}"), suffix, file, label)
        for label, name in enumerate(classes)
        for file in sorted((folder / name).iterdir())
        if (suffix := file.suffix[1:].lower()) in IMAGE_SUFFIXES
    ]
    if not pictures:
        raise UserError(f"{folder} has no pictures in sub-folders; it needs one sub-folder a class")
    return pictures, classes


def write_shards(
    pictures: Sequence[Picture],
    out: Path,
    *,
    classes: Sequence[str],
    per_shard: int,
    seed: int,
    prefix: str = "shard",
) -> list[Path]:
    """Pack pictures into `out/PREFIX-000000.tar` and so on, and the class names into `out/classes.txt`.

    Pictures are shuffled by the seed, so that a shard is a fair sample of the classes; their bytes are kept as
    they are. The same input gives the same bytes. A shard has its name only when it is complete.
    """
    _check(pictures, out)
    shuffled = random.Random(seed).sample(pictures, len(pictures))
    out.mkdir(parents=True, exist_ok=True)
    shards = []
    for number, first in enumerate(range(0, len(shuffled), per_shard)):
        shards.append(out / f"{prefix}-{number:06d}.tar")
        _write_shard(shards[-1], shuffled[first : first + per_shard])
    (out / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    return shards


def _write_shard(path: Path, pictures: Sequence[Picture]) -> None:
    aside = path.with_suffix(".tar.partial")
    try:
        with aside.open("wb") as file:
            # mtime 0 and one owner: equal pictures make equal tars
            with TarWriter(file, encoder=False, mtime=0, user="root", group="root") as tar:
                for picture in pictures:
                    content = picture.content
                    data = content.read_bytes() if isinstance(content, Path) else content
                    tar.write({"__key__": picture.key, picture.suffix: data, "cls": str(picture.label).encode()})
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _check(pictures: Sequence[Picture], out: Path) -> None:
    if not pictures:
        raise UserError("there are no pictures to pack; give at least one")
    key, count = Counter(picture.key for picture in pictures).most_common(1)[0]
    if count > 1:
        raise UserError(f"the key {key!r} stands for {count} pictures; rename files so that keys are unique")
    for picture in pictures:
        if picture.key != _safe(picture.key) or not picture.key:
            raise UserError(f"the key {picture.key!r} holds a dot, slash or white space; rename it")
    if out.is_dir() and any(out.glob("*.tar")):
        raise UserError(f"{out} already holds shards; choose another folder or remove them")


def _safe(key: str) -> str:
    return "".join("-" if char in "./\\" or char.isspace() else char for char in key)
