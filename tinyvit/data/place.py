"""Where shards are: a folder, a bucket (s3, gs, az), a folder behind a web server, a data set on the hub.

A web server cannot be asked what it has, so its shards are named by a brace pattern, as webdataset does:
`https://host/folder/shard-{000000..000127}.tar`. Patterns are understood everywhere.
"""

from __future__ import annotations

import io
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast

from braceexpand import braceexpand

from storage import Objects, Part, StoreError, open_objects
from tinyvit.classes import class_list
from tinyvit.errors import UserError

# Of a shard that is read from its beginning to its end.
STREAM_BYTES = 8 << 20
HUB = "hf://datasets/"
PIPE = "pipe:"


class Place:
    """Where the shards of a data set are, by a path, a URL or a brace pattern of either.

    It travels to other processes as its location and opens its own connections there.
    """

    def __init__(self, location: str | Path) -> None:
        self.location = str(location).rstrip("/")
        if self.location.startswith(PIPE):
            raise UserError(
                f"{location} runs commands; `tinyvit data pull '{location}' FOLDER --allow-pipe` fetches its shards"
            )
        try:
            pattern = "{" in self.location or self.location.endswith(".tar")
            names = list(braceexpand(self.location)) if pattern else []
        except ValueError:
            raise UserError(f"{location}: the braces do not fit together; write shard-{{000000..000127}}.tar") from None
        folder = self.location.rpartition("/")[0] if names else self.location
        self._folder = folder
        if any(name.rpartition("/")[0] != folder for name in names):
            raise UserError(f"{location}: shards of one data set lie in one folder; only their names may vary")
        self._named = sorted(name.rpartition("/")[2] for name in names)

    def __reduce__(self) -> tuple[Any, ...]:
        return Place, (self.location,)

    @property
    def whole(self) -> bool:
        """Whether all shards of the folder are meant."""
        return not self._named

    @property
    def path(self) -> Path | None:
        """The local folder, or None."""
        return None if "://" in self._folder else Path(self._folder)

    @property
    def name(self) -> str:
        """What the data set may be called: the name of its folder."""
        return self.path.resolve().name if self.path else self._folder.rpartition("/")[2]

    @cached_property
    def _objects(self) -> Objects:
        if self._folder.startswith(HUB):
            from tinyvit.data.hub import hub_folder

            return open_objects(*hub_folder(self._folder.removeprefix(HUB)))
        return open_objects(self._folder)

    def names(self) -> list[str]:
        """The shards in the order of their names. UserError when there are none."""
        if self._named:
            return self._named
        if self.path is not None and not self.path.is_dir():
            raise UserError(f"there is no data folder {self.location}; give a folder of WebDataset .tar shards")
        names = sorted(name for name in self._listed() if name.endswith(".tar") and "/" not in name)
        if not names:
            raise UserError(f"the data folder {self.location} holds no .tar shards; make some with `tinyvit data make`")
        return names

    def _listed(self) -> list[str]:
        if self.path is not None:
            return [entry.name for entry in self.path.iterdir()]
        if self._folder.startswith(HUB):
            from tinyvit.data.hub import hub_names

            return hub_names(self._folder.removeprefix(HUB))
        if self._objects.readable_only:
            raise UserError(
                f"{self.location}: a web server cannot say which shards it has; "
                f"name them: {self.location}/shard-{{000000..000127}}.tar"
            )
        try:
            return [name for name, _ in self._objects.sizes()]
        except StoreError as fault:
            raise UserError(str(fault)) from None

    def holds(self, folder: str) -> bool:
        """Whether there is such a folder inside; no, where a place cannot be asked."""
        if self.path is not None:
            return (self.path / folder).is_dir()
        if self._folder.startswith(HUB) or self._objects.readable_only:
            return False
        try:
            return any(True for _ in self._objects.sizes(f"{folder}/"))
        except StoreError as fault:
            raise UserError(str(fault)) from None

    def of(self, name: str) -> str:
        """A shard's whole path or URL, for messages."""
        return f"{self._folder}/{name}"

    def stamp(self, name: str) -> tuple[int, int]:
        """Bytes and time of change (ns) of a shard. UserError when it is not there."""
        try:
            found = self._objects.stamp(name)
        except StoreError as fault:
            raise UserError(str(fault)) from None
        if found is None:
            raise UserError(f"there is no shard {self.of(name)}; mend the data's location")
        return found

    def read(self, name: str, extents: list[tuple[int, int]]) -> list[bytes]:
        """Runs of bytes (offset, length) of a shard. UserError when it has not so many any more."""
        try:
            found = self._objects.fetch([Part(name, offset, length) for offset, length in extents])
        except (StoreError, OSError) as fault:
            raise UserError(f"{self.of(name)} cannot be read: {fault}") from None
        for data, (_, length) in zip(found, extents, strict=True):
            if data is None or len(data) != length:
                raise UserError(f"{self.of(name)} was cut short or removed after it was indexed: restore it")
        return [data for data in found if data is not None]

    def stream(self, name: str, size: int) -> BinaryIO:
        """A shard of `size` bytes from its beginning to its end."""
        if self.path is not None:
            try:
                return (self.path / name).open("rb")
            except OSError as fault:
                raise UserError(f"{self.of(name)} cannot be read: {fault.strerror}") from None
        return cast("BinaryIO", io.BufferedReader(_Parts(self, name, size), STREAM_BYTES))

    def class_names(self) -> list[str] | None:
        """The names in `classes.txt` beside the shards or in the folder above, in class-id order."""
        above = Place(self.path.resolve().parent if self.path else self._folder.rpartition("/")[0])
        for objects in (self._objects, above._objects):
            try:
                found = objects.get("classes.txt")
            except StoreError:
                # A server may refuse what it has not, for it does not tell what it has.
                continue
            if found is not None:
                return class_list(found, f"{objects.location}/classes.txt")
        return None


def train_and_val(location: str | Path) -> tuple[str, str | None]:
    """The places of the training and validation shards: inside, where `train` and `val` are folders there."""
    place = Place(location)
    if not place.whole or not place.holds("train"):
        return str(location), None
    return f"{place.location}/train", f"{place.location}/val" if place.holds("val") else None


def coco_places(folder: str | Path) -> tuple[str, str | None]:
    """The annotation files for training and validation of a COCO folder. UserError when there are none."""
    found = {split: sorted(Path(folder).glob(f"annotations/instances_{split}*.json")) for split in ("train", "val")}
    if not found["train"]:
        raise UserError(f"{folder} has no annotations/instances_train*.json; give a folder in COCO's layout")
    return str(found["train"][0]), str(found["val"][0]) if found["val"] else None


class _Parts(io.RawIOBase):
    """An object read in large parts, one after another."""

    def __init__(self, place: Place, name: str, size: int) -> None:
        self._place, self._name, self._size, self._at = place, name, size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._size - self._at)
        if length:
            buffer[:length] = self._place.read(self._name, [(self._at, length)])[0]
        self._at += length
        return length
