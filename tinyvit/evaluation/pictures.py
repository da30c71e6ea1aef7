"""Labelled pictures in batches, from shards, an image folder or a CSV file, prepared as timm does for evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from timm.data.transforms_factory import transforms_imagenet_eval
from torch import Tensor

from storage import ShardTable, digest_of
from tinyvit.data.images import BrokenImage, EncodedImage
from tinyvit.data.index import ShardIndex, index_shards
from tinyvit.data.join import key_digest
from tinyvit.data.sources import Picture, is_image_folder, pictures_of
from tinyvit.errors import UserError
from tinyvit.progress import Progress

# Of an image folder: pictures that are read, cached and counted together, as those of a shard are.
PART = 1000


@dataclass(frozen=True, slots=True)
class Labelled:
    """A picture's name for messages, its encoded bytes, and the classes that are right: one, or several or none where
    a set says so.
    """

    name: str
    content: bytes
    labels: tuple[int, ...]


class LabelledPictures(Protocol):
    """Pictures in parts, of which some can be read at a time; picklable."""

    @property
    def classes(self) -> list[str] | None:
        """The names of the labels, where they are known."""
        ...

    @property
    def counts(self) -> tuple[int, ...]:
        """How many pictures each part has."""
        ...

    def read(self, part: int, numbers: range) -> list[Labelled]:
        """Some pictures of a part. UserError for one without a label."""
        ...


class DataSet(LabelledPictures, Protocol):
    """Labelled pictures that are known well enough to keep what was made of them."""

    def table(self) -> ShardTable:
        """What a store keeps of them."""
        ...


@dataclass(frozen=True)
class ShardPictures:
    """Those of WebDataset shards; a shard is a part."""

    index: ShardIndex

    @property
    def classes(self) -> list[str] | None:
        return self.index.place.class_names()

    @property
    def counts(self) -> tuple[int, ...]:
        return self.index.counts

    def table(self) -> ShardTable:
        return self.index.table

    def read(self, part: int, numbers: range) -> list[Labelled]:
        shard, found = self.index.shard(part), []
        for sample in shard.read(numbers):
            if sample.label is None:
                raise UserError(
                    f"{shard.path}: {sample.key!r} has no label (.cls); only labelled shards can be evaluated on"
                )
            found.append(Labelled(f"{shard.path}: {sample.key}", sample.image, (sample.label,)))
        return found


@dataclass(frozen=True)
class FolderPictures:
    """Those of an image folder or a CSV file; labels are numbered in the order of the class names.

    `left_out` counts the files that are no pictures, by kind.
    """

    pictures: tuple[Picture, ...]
    classes: list[str] | None
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(len(self.pictures[first : first + PART]) for first in range(0, len(self.pictures), PART))

    def table(self) -> ShardTable:
        """Files are told apart by name, size and time of change."""
        parts = [self.pictures[first : first + PART] for first in range(0, len(self.pictures), PART)]
        return ShardTable(
            name=tuple(
                f"pictures {PART * number} to {PART * number + len(part) - 1}" for number, part in enumerate(parts)
            ),
            samples=self.counts,
            sha256=tuple(digest_of([[p.key, p.label, *p.stamp()] for p in part]) for part in parts),
            key_digest=tuple(np.array([key_digest(p.key) for p in part], np.uint64) for part in parts),
        )

    def read(self, part: int, numbers: range) -> list[Labelled]:
        first = PART * part
        chosen = self.pictures[first + numbers.start : first + numbers.stop]
        return [Labelled(str(picture.content), picture.read(), (picture.label,)) for picture in chosen]


def open_pictures(data: str, progress: Progress) -> DataSet:
    """The labelled pictures of shards (a folder, a URL), of an image folder, or of a CSV file."""
    path = Path(data)
    if "://" not in data and (path.suffix.lower() == ".csv" or (path.is_dir() and is_image_folder(path))):
        found = pictures_of(path)
        return FolderPictures(tuple(found.pictures), found.classes, found.left_out)
    return ShardPictures(index_shards(data, progress))


@dataclass(frozen=True)
class EvaluationViews:
    """The centre crops of pictures, of which each of `world` ranks takes a share."""

    pictures: LabelledPictures
    size: int
    crop_pct: float
    crop_mode: str
    interpolation: str
    batch_size: int
    rank: int = 0
    world: int = 1

    @property
    def items(self) -> int:
        """How many batches this rank reads."""
        return len(self.spans)

    @property
    def spans(self) -> list[tuple[int, range]]:
        """The part of each batch that this rank reads, and where it is in the part."""
        found = [span for part in range(len(self.pictures.counts)) for span in self.spans_of(part)]
        return found[self.rank :: self.world]

    def spans_of(self, part: int) -> list[tuple[int, range]]:
        """The batches of a part."""
        count, size = self.pictures.counts[part], self.batch_size
        return [(part, range(first, min(first + size, count))) for first in range(0, count, size)]

    def read(self, worker: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of one worker, as `batch` makes them."""
        return map(self.batch, self.spans[worker::workers])

    def batch(self, span: tuple[int, range]) -> tuple[Tensor, Tensor]:
        """Some pictures of a part: views [n, H, W, 3] uint8, and the classes that are right [n, L], filled up with -1.

        Pictures for which none is right are left out, so that a batch may be empty.
        """
        pictures = [picture for picture in self.pictures.read(*span) if picture.labels]
        views = np.zeros((len(pictures), self.size, self.size, 3), np.uint8)
        for view, picture in zip(views, pictures, strict=True):
            # The prefetcher's form of timm's transform ends in uint8, channels first.
            view[:] = np.asarray(self._transform(_decoded(picture))).transpose(1, 2, 0)
        most = max((len(picture.labels) for picture in pictures), default=1)
        labels = [[*picture.labels, *[-1] * (most - len(picture.labels))] for picture in pictures]
        return torch.from_numpy(views), torch.tensor(labels, dtype=torch.int64).view(len(pictures), most)

    @cached_property
    def _transform(self) -> Any:
        return transforms_imagenet_eval(
            img_size=self.size,
            crop_pct=self.crop_pct,
            crop_mode=self.crop_mode,
            interpolation=self.interpolation,
            use_prefetcher=True,
        )


def _decoded(picture: Labelled) -> Image.Image:
    try:
        return Image.fromarray(EncodedImage(picture.content).pixels())
    except BrokenImage as fault:
        raise UserError(f"{picture.name} cannot be decoded ({fault}); mend it") from None
