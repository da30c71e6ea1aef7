"""The sets of a comparison: some labelled images of a data set, repeated, and a part of it that is held out."""

from __future__ import annotations

import random
from pathlib import Path

from tinyvit.data.index import ShardIndex, index_shards
from tinyvit.datasets.make import write_shards
from tinyvit.datasets.sources import SourceImage
from tinyvit.errors import UserError
from tinyvit.runtime.progress import Progress

PER_SHARD = 2000


def write_labelled(data: str, out: Path, count: int, seed: int, views: int | None, progress: Progress) -> None:
    """Make shards of `count` labelled images, drawn with a seed and repeated to so many `views` an epoch.

    Without a number there are as many as images in `data`: an epoch of few is as long as one of all, and each
    repetition is seen in a view of its own. UserError when there are fewer.
    """
    index = index_shards(data, progress)
    drawn = _shuffled(index, seed)
    if len(drawn) < count:
        raise UserError(f"{data} has {len(drawn)} labelled images, fewer than {count}; ask for fewer")
    repeated = [
        SourceImage(f"{drawn[i % count].key}-{i // count:04d}", drawn[i % count].suffix, drawn[i % count].content,
                drawn[i % count].label)
        for i in range(views or sum(index.counts))
    ]  # fmt: skip
    _write(index, repeated, out, progress)


def hold_out(data: str, out: Path, count: int, seed: int, progress: Progress) -> None:
    """Divide `data`: `count` images, drawn with a seed, become `out/val`, the others `out/train`."""
    index = index_shards(data, progress)
    drawn = _shuffled(index, seed)
    _write(index, drawn[:count], out / "val", progress)
    _write(index, drawn[count:], out / "train", progress)


def _shuffled(index: ShardIndex, seed: int) -> list[SourceImage]:
    """The labelled images in an order that the seed decides."""
    # What kind of image it is is seen by its bytes, whatever the name says.
    found = [
        SourceImage(sample.key, "png", sample.image, sample.label)
        for shard in index.shards()
        for sample in shard.read_all()
        if sample.label is not None
    ]
    random.Random(seed).shuffle(found)
    return found


def _write(index: ShardIndex, images: list[SourceImage], out: Path, progress: Progress) -> None:
    names = index.place.class_names() or []
    write_shards(images, out, classes=names, per_shard=PER_SHARD, seed=0, progress=progress)
