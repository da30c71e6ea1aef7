"""Labelled pictures of shards, an image folder or a CSV file, as they are or by other names of their classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from logitstore import ShardTable, digest_of
from tinyvit.classes import match_classes, named_classes
from tinyvit.data.index import ShardIndex, index_shards
from tinyvit.data.join import key_digest
from tinyvit.datasets.sources import Picture, is_image_folder, pictures_of
from tinyvit.errors import UserError
from tinyvit.runtime.progress import Progress

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
    """Pictures of which `labels`, a picklable function, says anew which of `classes` are right."""

    pictures: DataSet
    classes: list[str]
    labels: Callable[[Labelled], tuple[int, ...] | None]

    @property
    def left_out(self) -> Mapping[str, int]:
        return self.pictures.left_out

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

    Classes that are called by decimal numbers are its lines of these numbers. UserError where the list does not fit,
    and where the data says by itself what its classes are, otherwise than the list.
    """
    if names is None:
        return pictures
    listed, own = named_classes(names), pictures.classes
    if own is None:
        return Relabelled(pictures, listed, partial(renumbered, None))
    if all(name.isdecimal() for name in own):
        numbers = tuple(map(int, own))
        if max(numbers) >= len(listed):
            raise UserError(
                f"{data} has a class {max(numbers)}, {names} names {len(listed)} classes, from 0 on; mend it"
            )
        return Relabelled(pictures, listed, partial(renumbered, numbers))
    if match_classes(own, listed, (data, names)) != list(range(len(listed))):
        raise UserError(f"{data} names its classes itself, such as {own[0]!r}; leave --classes out")
    return pictures
