"""Labelled pictures in batches, from shards, an image folder or a CSV file, prepared as timm does for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.transforms_factory import transforms_imagenet_eval
from torch import Tensor

from storage import ShardTable, digest_of
from tinyvit.classes import named_classes
from tinyvit.config import Decode
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
    a set says so; None where it has no label.
    """

    name: str
    content: bytes
    labels: tuple[int, ...] | None


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
        """Some pictures of a part."""
        ...


class DataSet(LabelledPictures, Protocol):
    """Labelled pictures that are known well enough to keep what was made of them."""

    @property
    def left_out(self) -> Mapping[str, int]:
        """How many files of each kind beside them are no pictures."""
        ...

    def table(self) -> ShardTable:
        """What a store keeps of them."""
        ...


@dataclass(frozen=True)
class ShardPictures:
    """Those of WebDataset shards; a shard is a part. What is in a shard is a picture, or the shard is refused."""

    index: ShardIndex
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def classes(self) -> list[str] | None:
        return self.index.place.class_names()

    @property
    def counts(self) -> tuple[int, ...]:
        return self.index.counts

    def table(self) -> ShardTable:
        return self.index.table

    def read(self, part: int, numbers: range) -> list[Labelled]:
        shard = self.index.shard(part)
        return [
            Labelled(f"{shard.path}: {sample.key}", sample.image, None if sample.label is None else (sample.label,))
            for sample in shard.read(numbers)
        ]


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
class Relabelled:
    """Pictures of which `labels`, a picklable function, says anew which of `classes` are right; `present` of these have
    pictures, where that is known.
    """

    pictures: DataSet
    classes: list[str]
    labels: Callable[[Labelled], tuple[int, ...] | None]
    present: int | None = None

    @property
    def left_out(self) -> Mapping[str, int]:
        return self.pictures.left_out

    @property
    def coverage(self) -> str:
        """How many of the classes there are pictures of."""
        return "not known" if self.present is None else f"{self.present:,} of {len(self.classes):,}"

    @property
    def counts(self) -> tuple[int, ...]:
        return self.pictures.counts

    def table(self) -> ShardTable:
        return self.pictures.table()

    def read(self, part: int, numbers: range) -> list[Labelled]:
        return [replace(picture, labels=self.labels(picture)) for picture in self.pictures.read(part, numbers)]


def renumbered(numbers: Sequence[int] | None, picture: Labelled) -> tuple[int, ...] | None:
    """A picture's labels, of which `numbers` has the new one of each; None: they stay."""
    if numbers is None or picture.labels is None:
        return picture.labels
    if wrong := [label for label in picture.labels if not 0 <= label < len(numbers)]:
        raise UserError(f"{picture.name} has the label {wrong[0]}, but there are {len(numbers)} classes; mend it")
    return tuple(numbers[label] for label in picture.labels)


def with_classes(pictures: DataSet, names: str | None, data: str) -> DataSet:
    """The pictures of `data` with labels that are called by a list of names: a file, or imagenet-1k; None: as they are.

    Folders that are called by decimal numbers are its lines of these numbers. UserError where the list does not fit,
    and where folders say by themselves what they are.
    """
    if names is None:
        return pictures
    listed, own = named_classes(names), pictures.classes
    if own is not None and isinstance(pictures, FolderPictures):
        if not all(name.isdecimal() for name in own):
            raise UserError(f"{data} names its classes itself, such as {own[0]!r}; leave --classes out")
        numbers = tuple(map(int, own))
        if max(numbers) >= len(listed):
            raise UserError(
                f"{data} has a class {max(numbers)}, {names} names {len(listed)} classes, from 0 on; mend it"
            )
        return Relabelled(pictures, listed, partial(renumbered, numbers))
    if own is not None and len(own) != len(listed):
        raise UserError(
            f"{names} names {len(listed)} classes, the classes.txt of {data} {len(own)}; give a list of these"
        )
    return Relabelled(pictures, listed, partial(renumbered, None))


class EvaluationBatch(NamedTuple):
    """Centre crops `views` [n, H, W, 3] uint8, and the classes that are right `labels` [n, L], filled up with -1.

    Left out are `unlabelled` pictures for which none is right and `broken` ones that cannot be decoded.
    """

    views: Tensor
    labels: Tensor
    unlabelled: int
    broken: int


@dataclass(frozen=True)
class EvaluationViews:
    """The centre crops of pictures, read as `decode` says, of which each of `world` ranks takes a share."""

    pictures: LabelledPictures
    size: int
    crop_pct: float
    crop_mode: str
    interpolation: str
    batch_size: int
    decode: Decode
    skip_broken: bool = False
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

    def read(self, worker: int, workers: int) -> Iterator[EvaluationBatch]:
        """Batches of one worker, as `batch` makes them."""
        return map(self.batch, self.spans[worker::workers])

    def batch(self, span: tuple[int, range]) -> EvaluationBatch:
        """Some pictures of a part; there may be none left. UserError for one without a label, and for one that is
        broken unless such are to be skipped.
        """
        labels = list[tuple[int, ...]]()
        unlabelled = broken = 0
        views = np.zeros((len(span[1]), self.size, self.size, 3), np.uint8)
        for picture in self.pictures.read(*span):
            right = _labels(picture)
            if not right:
                unlabelled += 1
                continue
            try:
                views[len(labels)] = self._prepared(picture)
            except BrokenImage as fault:
                if not self.skip_broken:
                    raise broken_picture(picture, fault) from None
                broken += 1
                continue
            labels.append(right)
        most = max(map(len, labels), default=1)
        filled = [[*right, *[-1] * (most - len(right))] for right in labels]
        return EvaluationBatch(
            torch.from_numpy(views[: len(labels)]),
            torch.tensor(filled, dtype=torch.int64).view(len(labels), most),
            unlabelled,
            broken,
        )

    def _prepared(self, picture: Labelled) -> NDArray[np.uint8]:
        decoded = _decoded(picture, self.decode)
        try:
            # The prefetcher's form of timm's transform ends in uint8, channels first.
            return np.asarray(self._transform(decoded)).transpose(1, 2, 0)
        except Exception as fault:
            raise UserError(
                f"{picture.name} of {decoded.width} x {decoded.height} pixels cannot be prepared "
                f"({type(fault).__name__}: {fault}); take it out"
            ) from fault

    @cached_property
    def _transform(self) -> Any:
        return transforms_imagenet_eval(
            img_size=self.size,
            crop_pct=self.crop_pct,
            crop_mode=self.crop_mode,
            interpolation=self.interpolation,
            use_prefetcher=True,
        )


@dataclass(frozen=True)
class UsableViews:
    """Whether pictures can be evaluated on, looked at without a network: a stream of how many each batch has."""

    views: EvaluationViews
    # Labels must be below it.
    classes: int

    def read(self, worker: int, workers: int) -> Iterator[int]:
        """Of one worker. UserError as `EvaluationViews.batch`, and for a label that is too large."""
        for span in self.views.spans[worker::workers]:
            for picture in (pictures := self.views.pictures.read(*span)):
                if (wrong := max(_labels(picture), default=0)) >= self.classes:
                    raise UserError(
                        f"{picture.name} has the label {wrong}, but there are {self.classes} classes; mend it, or the "
                        f"list of classes"
                    )
                try:
                    if not self.views.skip_broken:
                        _decoded(picture, self.views.decode)
                except BrokenImage as fault:
                    raise broken_picture(picture, fault) from None
            yield len(pictures)


def _labels(picture: Labelled) -> tuple[int, ...]:
    if picture.labels is None or min(picture.labels, default=0) < 0:
        raise UserError(f"{picture.name} has no label (.cls); only labelled pictures can be evaluated on")
    return picture.labels


def _decoded(picture: Labelled, decode: Decode) -> Image.Image:
    return Image.fromarray(EncodedImage(picture.content, decode).pixels())


def broken_picture(picture: Labelled, fault: BrokenImage) -> UserError:
    """That a picture cannot be decoded."""
    return UserError(
        f"{picture.name} cannot be decoded ({fault}); mend it, or leave such pictures out: data.broken=skip in a "
        f"recipe, --skip-broken of `tinyvit evaluate`"
    )
