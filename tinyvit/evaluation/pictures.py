"""Labelled pictures in batches, from shards, an image folder or a CSV file, prepared as timm does for evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from timm.data.transforms_factory import transforms_imagenet_eval
from torch import Tensor

from tinyvit.data.images import BrokenImage, EncodedImage
from tinyvit.data.index import ShardIndex, index_shards
from tinyvit.data.sources import Picture, pictures_of
from tinyvit.errors import UserError
from tinyvit.progress import Progress

# A picture's name for messages, its encoded bytes, its label.
Labelled = tuple[str, bytes, int]


class LabelledPictures(Protocol):
    """Pictures that can be read a span at a time; picklable."""

    @property
    def classes(self) -> list[str] | None:
        """The names of the labels, where they are known."""
        ...

    def spans(self, most: int) -> list[tuple[int, range]]:
        """Where to read, at most so many pictures at a time."""
        ...

    def read(self, part: int, numbers: range) -> list[Labelled]:
        """The pictures of a span. UserError for one without a label."""
        ...


@dataclass(frozen=True)
class ShardPictures:
    """Those of WebDataset shards."""

    index: ShardIndex

    @property
    def classes(self) -> list[str] | None:
        return self.index.place.class_names()

    def spans(self, most: int) -> list[tuple[int, range]]:
        counts = enumerate(self.index.counts)
        return [(shard, span) for shard, count in counts for span in _spans(count, most)]

    def read(self, part: int, numbers: range) -> list[Labelled]:
        shard, found = self.index.shard(part), []
        for sample in shard.read(numbers):
            if sample.label is None:
                raise UserError(
                    f"{shard.path}: {sample.key!r} has no label (.cls); only labelled shards can be evaluated on"
                )
            found.append((f"{shard.path}: {sample.key}", sample.image, sample.label))
        return found


@dataclass(frozen=True)
class FolderPictures:
    """Those of an image folder or a CSV file; labels are numbered in the order of the class names."""

    pictures: tuple[Picture, ...]
    classes: list[str] | None

    def spans(self, most: int) -> list[tuple[int, range]]:
        return [(0, span) for span in _spans(len(self.pictures), most)]

    def read(self, part: int, numbers: range) -> list[Labelled]:
        chosen = self.pictures[numbers.start : numbers.stop]
        return [(str(picture.content), picture.read(), picture.label) for picture in chosen]


def open_pictures(data: str, progress: Progress) -> LabelledPictures:
    """The labelled pictures of shards (a folder, a URL), of an image folder, or of a CSV file."""
    path = Path(data)
    if path.suffix == ".csv" or (
        path.is_dir() and not any(path.glob("*.tar")) and any(map(Path.is_dir, path.iterdir()))
    ):
        found, classes = pictures_of(path)
        return FolderPictures(tuple(found), classes)
    return ShardPictures(index_shards(data, progress))


def _spans(count: int, most: int) -> list[range]:
    return [range(first, min(first + most, count)) for first in range(0, count, most)]


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
        return len(self._spans)

    @property
    def _spans(self) -> list[tuple[int, range]]:
        return self.pictures.spans(self.batch_size)[self.rank :: self.world]

    def read(self, worker: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches (views [n, H, W, 3] uint8, labels [n]) of one worker."""
        transform = transforms_imagenet_eval(
            img_size=self.size,
            crop_pct=self.crop_pct,
            crop_mode=self.crop_mode,
            interpolation=self.interpolation,
            use_prefetcher=True,
        )
        for part, numbers in self._spans[worker::workers]:
            pictures = self.pictures.read(part, numbers)
            # The prefetcher's form of timm's transform ends in uint8, channels first.
            pixels = [np.asarray(transform(_decoded(*picture[:2]))).transpose(1, 2, 0) for picture in pictures]
            yield torch.from_numpy(np.stack(pixels)), torch.tensor([label for _, _, label in pictures])


def _decoded(name: str, content: bytes) -> Image.Image:
    try:
        return Image.fromarray(EncodedImage(content).pixels())
    except BrokenImage as fault:
        raise UserError(f"{name} cannot be decoded ({fault}); mend it") from None
