"""Labelled images of shards, an image folder or a CSV file, as they are or by other names of their classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from logitstore import ShardTable, digest_of
from tinyvit.cache import CacheFolder, Wanted
from tinyvit.classes import match_classes, named_classes
from tinyvit.data.index import ShardIndex, index_shards
from tinyvit.data.join import key_digest
from tinyvit.data.location import cache_for
from tinyvit.datasets.sources import SourceImage, images_of, is_image_folder
from tinyvit.errors import UserError
from tinyvit.runtime.progress import Progress

# Of an image folder: images that are read, cached and counted together, as those of a shard are.
PART = 1000


@dataclass(frozen=True, slots=True)
class Labelled:
    """An image's name for messages, its encoded bytes, and the classes that are right: one, or several or none where
    a set says so; None where it has no label.
    """

    name: str
    content: bytes
    labels: tuple[int, ...] | None


class LabelledImages(Protocol):
    """Images in parts, of which some can be read at a time; picklable."""

    @property
    def classes(self) -> list[str] | None:
        """The names of the labels, where they are known."""
        ...

    @property
    def counts(self) -> tuple[int, ...]:
        """How many images each part has."""
        ...

    def read(self, part: int, numbers: range) -> list[Labelled]:
        """Some images of a part."""
        ...

    def wanted(self, part: int) -> Sequence[Wanted]:
        """What a cache is to have before a part is read."""
        ...


class DataSet(LabelledImages, Protocol):
    """Labelled images that are known well enough to keep what was made of them."""

    @property
    def left_out(self) -> Mapping[str, int]:
        """How many files of each kind beside them are no images."""
        ...

    def table(self) -> ShardTable:
        """What a store keeps of them."""
        ...


@dataclass(frozen=True)
class ShardImages:
    """Those of WebDataset shards; a shard is a part. What is in a shard is an image, or the shard is refused."""

    index: ShardIndex
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def classes(self) -> list[str] | None:
        return self.index.class_names

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

    def wanted(self, part: int) -> Sequence[Wanted]:
        cached = self.index.cached(part)
        return [cached] if cached else []


@dataclass(frozen=True)
class FolderImages:
    """Those of an image folder or a CSV file; labels are numbered in the order of the class names.

    `left_out` counts the files that are no images, by kind.
    """

    images: tuple[SourceImage, ...]
    classes: list[str] | None
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(len(self.images[first : first + PART]) for first in range(0, len(self.images), PART))

    def table(self) -> ShardTable:
        """Files are told apart by name, size and time of change."""
        parts = [self.images[first : first + PART] for first in range(0, len(self.images), PART)]
        return ShardTable(
            name=tuple(
                f"images {PART * number} to {PART * number + len(part) - 1}" for number, part in enumerate(parts)
            ),
            samples=self.counts,
            sha256=tuple(digest_of([[p.key, p.label, *p.stamp()] for p in part]) for part in parts),
            key_digest=tuple(np.array([key_digest(p.key) for p in part], np.uint64) for part in parts),
        )

    def read(self, part: int, numbers: range) -> list[Labelled]:
        first = PART * part
        chosen = self.images[first + numbers.start : first + numbers.stop]
        return [Labelled(str(image.content), image.read(), (image.label,)) for image in chosen]

    def wanted(self, _part: int) -> Sequence[Wanted]:
        return []


def open_images(data: str, progress: Progress, cache: CacheFolder | None = None) -> DataSet:
    """The labelled images of shards (a folder, a URL), of an image folder, or of a CSV file.

    Shards that are not local are read through a cache, the user's own where none is given.
    """
    path = Path(data)
    if "://" not in data and (path.suffix.lower() == ".csv" or (path.is_dir() and is_image_folder(path))):
        found = images_of(path)
        return FolderImages(tuple(found.images), found.classes, found.left_out)
    return ShardImages(index_shards(data, progress).through(cache or cache_for(data)))


@dataclass(frozen=True)
class Relabelled:
    """Images of which `labels`, a picklable function, says anew which of `classes` are right."""

    images: DataSet
    classes: list[str]
    labels: Callable[[Labelled], tuple[int, ...] | None]

    @property
    def left_out(self) -> Mapping[str, int]:
        return self.images.left_out

    @property
    def counts(self) -> tuple[int, ...]:
        return self.images.counts

    def table(self) -> ShardTable:
        return self.images.table()

    def read(self, part: int, numbers: range) -> list[Labelled]:
        return [replace(image, labels=self.labels(image)) for image in self.images.read(part, numbers)]

    def wanted(self, part: int) -> Sequence[Wanted]:
        return self.images.wanted(part)


def renumbered(numbers: Sequence[int] | None, image: Labelled) -> tuple[int, ...] | None:
    """An image's labels, of which `numbers` has the new one of each; None: they stay."""
    if numbers is None or image.labels is None:
        return image.labels
    if wrong := [label for label in image.labels if not 0 <= label < len(numbers)]:
        raise UserError(f"{image.name} has the label {wrong[0]}, but there are {len(numbers)} classes; mend it")
    return tuple(numbers[label] for label in image.labels)


def with_classes(images: DataSet, names: str | None, data: str) -> DataSet:
    """The images of `data` with labels that are called by a list of names: a file, or imagenet-1k; None: as they are.

    Classes that are called by decimal numbers are its lines of these numbers. UserError where the list does not fit,
    and where the data says by itself what its classes are, otherwise than the list.
    """
    if names is None:
        return images
    listed, own = named_classes(names), images.classes
    if own is None:
        return Relabelled(images, listed, partial(renumbered, None))
    if all(name.isdecimal() for name in own):
        numbers = tuple(map(int, own))
        if max(numbers) >= len(listed):
            raise UserError(
                f"{data} has a class {max(numbers)}, {names} names {len(listed)} classes, from 0 on; mend it"
            )
        return Relabelled(images, listed, partial(renumbered, numbers))
    if match_classes(own, listed, (data, names)) != list(range(len(listed))):
        raise UserError(f"{data} names its classes itself, such as {own[0]!r}; leave --classes out")
    return images
