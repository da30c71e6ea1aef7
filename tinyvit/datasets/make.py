"""Making shards: images in, WebDataset .tar files out, several at a time, each whole or not there.

What goes into which shard is planned first and follows from the images' names and a seed alone. So the same
command goes on where it was stopped, and the same images make the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import random
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from webdataset.writer import TarWriter

from logitstore import whole_file, write_whole
from tinyvit.classes import class_list
from tinyvit.data.folders import hidden
from tinyvit.data.fork_server import sockets_in_tmpdir
from tinyvit.data.processes import ending_with_this
from tinyvit.datasets.sources import SourceImage, safe
from tinyvit.errors import ProcessLost, UserError
from tinyvit.runtime.progress import Progress
from tinyvit.views.images import BrokenImage, reading
from tinyvit.views.rgb import ORIENTATION, UPRIGHT, eight_bits, opened, orientation_of, stored_size, turn_left, turned

PLAN = "plan.sha256"
CLASSES = "classes.txt"
# Of an image that was too large.
QUALITY = 95


@dataclass(frozen=True)
class ShardPlan:
    """A shard that is to be made: its file and its images in order."""

    path: Path
    images: tuple[SourceImage, ...]


def write_shards(
    images: Sequence[SourceImage],
    out: Path,
    *,
    classes: Sequence[str],
    per_shard: int,
    seed: int,
    progress: Progress,
    prefix: str = "shard",
    max_side: int | None = None,
    workers: int = 0,
) -> list[Path]:
    """Pack images into `out/PREFIX-000000.tar` and so on, and the class names into `out/classes.txt`.

    Images are shuffled by the seed, so that a shard is a fair sample of the classes; their bytes are kept as they
    are, unless a side is longer than `max_side`. Shards that an earlier run with the same plan made are kept.
    UserError for keys that are not unique or not possible, and where other shards are in the way.
    """
    _check(images)
    plans = _plan(images, out, per_shard, seed, prefix)
    todo = _begin(plans, out, classes, f"{max_side} {per_shard} {seed}")
    work = partial(_write_shard, max_side=max_side)
    with progress.task("pack", sum(len(plan.images) for plan in todo), "images") as bar:
        if workers and len(todo) > 1:
            context = multiprocessing.get_context("forkserver")
            try:
                with (
                    sockets_in_tmpdir(),
                    ProcessPoolExecutor(min(workers, len(todo)), context, ending_with_this()) as pool,
                ):
                    for count in pool.map(work, todo):
                        bar.advance(count)
            except BrokenProcessPool as fault:
                raise ProcessLost(
                    "a process that packs images was killed (out of memory?); shards that are whole stay: run the "
                    "same command again, with fewer --workers if memory is short"
                ) from fault
        else:
            for plan in todo:
                bar.advance(work(plan))
    return [plan.path for plan in plans]


def _check(images: Sequence[SourceImage]) -> None:
    if not images:
        raise UserError("there are no images to pack; give at least one")
    key, count = Counter(image.key for image in images).most_common(1)[0]
    if count > 1:
        raise UserError(f"the key {key!r} stands for {count} images; rename files so that keys are unique")
    for image in images:
        if image.key != safe(image.key) or not image.key:
            raise UserError(f"the key {image.key!r} holds a dot, slash or white space; rename it")


def _plan(images: Sequence[SourceImage], out: Path, per_shard: int, seed: int, prefix: str) -> list[ShardPlan]:
    shuffled = random.Random(seed).sample(list(images), len(images))
    return [
        ShardPlan(out / f"{prefix}-{number:06d}.tar", tuple(shuffled[first : first + per_shard]))
        for number, first in enumerate(range(0, len(shuffled), per_shard))
    ]


def _begin(plans: list[ShardPlan], out: Path, classes: Sequence[str], settings: str) -> list[ShardPlan]:
    """The shards that are still to be made. UserError where others are, or some of another plan."""
    listed = class_list(classes)
    sha = hashlib.sha256(settings.encode())
    for plan in plans:
        for image in plan.images:
            sha.update(f"{plan.path.name}\t{image.key}\t{image.suffix}\t{image.label}\n".encode())
    digest = sha.hexdigest() + "\n"
    before = (out / PLAN).read_text() if (out / PLAN).exists() else ""
    there = {path.name for path in out.glob("*.tar") if not hidden(path.name)} if out.is_dir() else set()
    if there and before != digest:
        raise UserError(f"{out} already holds shards of other images or settings; choose another folder")
    write_whole(out / PLAN, digest.encode())
    write_whole(out / CLASSES, listed)
    return [plan for plan in plans if plan.path.name not in there]


def _write_shard(plan: ShardPlan, max_side: int | None) -> int:
    """Make one shard; returns how many images it has."""
    with (
        whole_file(plan.path) as file,
        # mtime 0 and one owner: equal images make equal tars
        TarWriter(file, encoder=False, mtime=0, user="root", group="root") as tar,
    ):
        for image in plan.images:
            suffix, content = image.suffix, image.read()
            if max_side:
                suffix, content = _bounded(image, content, max_side)
            tar.write({"__key__": image.key, suffix: content, "cls": str(image.label).encode()})
    return len(plan.images)


def _bounded(image: SourceImage, content: bytes, max_side: int) -> tuple[str, bytes]:
    """Suffix and bytes of an image whose sides are no longer than allowed; as they are where they fit.

    An image that cannot be decoded is left for `data check` to find.
    """
    try:
        with reading():
            encoded = opened(content)
            if max(stored_size(encoded)) <= max_side:
                return image.suffix, content
            return _smaller(encoded, max_side)
    except BrokenImage:
        return image.suffix, content


def _smaller(image: Image.Image, max_side: int) -> tuple[str, bytes]:
    """Suffix and bytes of an image that is too large. How it is to be turned, and what is transparent, is left to who
    reads it, as it is for an image that fits.
    """
    orientation = orientation_of(image)
    image.draft("RGB", (max_side, max_side))
    plain = eight_bits(image)
    colours = plain.convert("RGB")
    colours.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    suffix = "jpg"
    options: dict[str, Any] = {"format": "JPEG", "quality": QUALITY}
    if plain.has_transparency_data:
        # Apart from the colours, which would be lost where nothing of them shows.
        alpha = plain.convert("RGBA").getchannel("A")
        alpha.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
        colours.putalpha(alpha)
        suffix, options = "png", {"format": "PNG"}
    if orientation != UPRIGHT:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        options["exif"] = exif
    made = io.BytesIO()
    Image.fromarray(turned(np.array(colours), turn_left(image, orientation, obey=False))).save(made, **options)
    return suffix, made.getvalue()
