"""Where shards are: a folder, a bucket (s3, gs, az), a folder behind a web server, a data set on the hub.

A web server cannot be asked what it has, so its shards are named by a brace pattern, as webdataset does:
`https://host/folder/shard-{000000..000127}.tar`. Patterns are understood everywhere.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import unquote

from braceexpand import braceexpand

from logitstore import ByteRange, Objects, StoreError, WholeOnly, open_objects
from tinyvit.cache import CacheFolder, open_cache
from tinyvit.classes import read_class_list
from tinyvit.config import Data, Recipe
from tinyvit.data.folders import hidden, no_shards
from tinyvit.data.shards import COMPRESSED_TARS
from tinyvit.errors import UserError

# Of a shard that is read from its beginning to its end.
STREAM_BYTES = 8 << 20
HUB = "hf://datasets/"
PIPE = "pipe:"


class ShardLocation:
    """Where the shards of a data set are, by a path, a URL or a brace pattern of either.

    It travels to other processes as its location and opens its own connections there.
    """

    def __init__(self, location: str | Path) -> None:
        self.location = str(location)
        if self.location.startswith(PIPE):
            raise UserError(
                f"{location} runs commands; `tinyvit data pull '{location}' FOLDER --allow-pipe` fetches its shards"
            )
        address, self._signature = self.location, ""
        if address.startswith("file://"):
            address = unquote(address.removeprefix("file://"))
        elif address.startswith("http"):
            # Such as a signature, that a server asks for with every request.
            address, mark, query = address.partition("?")
            self._signature = mark + query
        self.address = address.rstrip("/")
        self._folder, self._named = _parts(self.address)

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardLocation, (self.location,)

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
        return self._open(self._folder)

    def _open(self, folder: str) -> Objects:
        if folder.startswith(HUB):
            from tinyvit.data.hub import hub_folder

            return open_objects(*hub_folder(_on_hub(folder)))
        return open_objects(folder + self._signature)

    def names(self) -> list[str]:
        """The shards in the order of their names. UserError when there are none, or some that cannot be read."""
        if self._named:
            return self._named
        if self.path is not None and not self.path.is_dir():
            other = ", but a file" if self.path.exists() else ""
            raise UserError(
                f"there is no data folder {self.address}{other}; give a folder of WebDataset .tar shards, as "
                f"`tinyvit data make` makes them"
            )
        listed = sorted(name for name in self._listed() if "/" not in name and not hidden(name))
        names = [name for name in listed if name.endswith(".tar")]
        for name in listed:
            if name not in names and name.lower().endswith((".tar", *COMPRESSED_TARS)):
                raise UserError(f"{self.url(name)} is not read: shards are plain tars called .tar; unpack or rename it")
            if name in names and name != name.encode(errors="replace").decode():
                raise UserError(f"{self.url(name)} has a name that is not UTF-8; rename it")
        if not names:
            held = no_shards(self.path) if self.path else "; name them, or make some with `tinyvit data make`"
            raise UserError(f"the data folder {self.address} holds no .tar shards{held}")
        return names

    def _listed(self) -> list[str]:
        if self.path is not None:
            return [entry.name for entry in self.path.iterdir()]
        if self._folder.startswith(HUB):
            from tinyvit.data.hub import hub_names

            return hub_names(_on_hub(self._folder))
        if self._objects.readable_only:
            raise UserError(
                f"{self.address}: a web server cannot say which shards it has; "
                f"name them: {self.address}/shard-{{000000..000127}}.tar"
            )
        try:
            return [name for name, _ in self._objects.sizes()]
        except StoreError as fault:
            raise UserError(str(fault)) from fault

    def holds(self, folder: str) -> bool:
        """Whether there is such a folder inside; no, where a place cannot be asked."""
        if self.path is not None:
            return (self.path / folder).is_dir()
        if self._folder.startswith(HUB) or self._objects.readable_only:
            return False
        try:
            return any(True for _ in self._objects.sizes(f"{folder}/"))
        except StoreError as fault:
            raise UserError(str(fault)) from fault

    def url(self, name: str) -> str:
        """A shard's whole path or URL, for messages."""
        return f"{self._folder}/{name}"

    def stat(self, name: str) -> tuple[int, int]:
        """Bytes and time of change (ns) of a shard. UserError when it is not there."""
        try:
            found = self._objects.stamp(name)
        except StoreError as fault:
            raise UserError(str(fault)) from fault
        if found is None:
            raise UserError(f"there is no shard {self.url(name)}; mend the data's location")
        return found

    def read(self, name: str, extents: list[tuple[int, int]]) -> list[bytes]:
        """Runs of bytes (offset, length) of a shard, those that touch each other in one request.

        UserError when it has not so many any more.
        """
        runs = _together(extents)
        found = self._read(name, [(run[0][0], sum(length for _, length in run)) for run in runs])
        return [
            data[offset - run[0][0] : offset - run[0][0] + length]
            for data, run in zip(found, runs, strict=True)
            for offset, length in run
        ]

    def _read(self, name: str, extents: list[tuple[int, int]]) -> list[bytes]:
        try:
            found = self._objects.fetch([ByteRange(name, offset, length) for offset, length in extents])
        except WholeOnly as fault:
            raise UserError(
                f"{self.url(name)}: the server gives files only whole, and samples are read by their place; "
                f"fetch them first: tinyvit data pull '{self.address}' FOLDER"
            ) from fault
        except (StoreError, OSError) as fault:
            raise UserError(f"{self.url(name)} cannot be read: {fault}") from fault
        for data, (_, length) in zip(found, extents, strict=True):
            if data is None or len(data) != length:
                raise UserError(f"{self.url(name)} was cut short or removed after it was indexed: restore it")
        return [data for data in found if data is not None]

    def stream(self, name: str, size: int) -> BinaryIO:
        """A shard of `size` bytes from its beginning to its end."""
        if self.path is not None:
            try:
                return (self.path / name).open("rb")
            except OSError as fault:
                raise UserError(f"{self.url(name)} cannot be read: {fault.strerror}") from fault
        return cast("BinaryIO", io.BufferedReader(_Parts(self, name, size), STREAM_BYTES))

    def pieces(self, name: str) -> Iterator[bytes]:
        """A shard from its beginning to its end, also of a server that gives files only whole."""
        try:
            if self.path is None:
                self._objects.fetch([ByteRange(name, 0, 1)])
        except WholeOnly:
            yield from self._objects.pieces(name)
            return
        except StoreError as fault:
            raise UserError(str(fault)) from fault
        with self.stream(name, self.stat(name)[0]) as stream:
            yield from iter(lambda: stream.read(STREAM_BYTES), b"")

    def class_names(self) -> list[str] | None:
        """The names in `classes.txt` beside the shards or in the folder above, in class-id order."""
        above = str(self.path.resolve().parent) if self.path else self._folder.rpartition("/")[0]
        for folder in (self._folder, above):
            try:
                found = self._open(folder).get("classes.txt")
            except StoreError:
                # A server may refuse what it has not, for it does not tell what it has.
                continue
            if found is not None:
                return read_class_list(found, f"{folder}/classes.txt")
        return None


def _together(extents: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Runs of bytes that follow each other, as long as they are no more than STREAM_BYTES."""
    found: list[list[tuple[int, int]]] = []
    for offset, length in extents:
        if found and sum(found[-1][-1]) == offset and offset + length - found[-1][0][0] <= STREAM_BYTES:
            found[-1].append((offset, length))
        else:
            found.append([(offset, length)])
    return found


def _parts(address: str) -> tuple[str, list[str]]:
    """The folder of an address and the shards in it that it names; none where it means all of them.

    What is there on the disk by this very name is that, and no pattern.
    """
    local = "://" not in address
    if (local and Path(address).is_dir()) or not ("{" in address or address.endswith(".tar")):
        return address, []
    folder, name = _split(address, local)
    if local and Path(address).exists():
        return folder, [name]
    try:
        # A folder that is there is no pattern either.
        found = (
            [(folder, one) for one in braceexpand(name)]
            if local and Path(folder).is_dir()
            else [_split(one, local) for one in braceexpand(address)]
        )
    except ValueError as fault:
        raise UserError(f"{address}: the braces do not fit together; write shard-{{000000..000127}}.tar") from fault
    if any(one != folder for one, _ in found):
        raise UserError(f"{address}: shards of one data set lie in one folder; only their names may vary")
    return folder, sorted({name if local else unquote(name) for _, name in found})


def _split(address: str, local: bool) -> tuple[str, str]:
    """Folder and name."""
    if local:
        return str(Path(address).parent), Path(address).name
    folder, _, name = address.rpartition("/")
    return folder, name


def _on_hub(folder: str) -> str:
    return unquote(folder.removeprefix(HUB))


def cache_for(location: str, data: Data | None = None) -> CacheFolder | None:
    """The cache for what is read of a place, as `data` says; None where it is read as it lies: on this machine, with no
    folder given.
    """
    folder, size = (data.cache, data.cache_size) if data else (None, None)
    far = "://" in location and not location.startswith("file://")
    return open_cache(folder, size) if folder or far else None


def resolve_data(recipe: Recipe, location: str | Path | None) -> Recipe:
    """The recipe on other data: a place of .tar files, or one with `train` and `val` inside; for detection a folder in
    COCO's layout. None: as it is.
    """
    if location is None:
        return recipe
    train, val = coco_places(location) if recipe.detection else train_and_val(location)
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"train": train, "val": val})})


def train_and_val(location: str | Path) -> tuple[str, str | None]:
    """The places of the training and validation shards: inside, where `train` and `val` are folders there."""
    place = ShardLocation(location)
    if not place.whole or not place.holds("train"):
        return str(location), None
    return f"{place.address}/train", f"{place.address}/val" if place.holds("val") else None


def coco_places(folder: str | Path) -> tuple[str, str | None]:
    """The annotation files for training and validation of a COCO folder. UserError when there are none."""
    found = {split: sorted(Path(folder).glob(f"annotations/instances_{split}*.json")) for split in ("train", "val")}
    if not found["train"]:
        raise UserError(f"{folder} has no annotations/instances_train*.json; give a folder in COCO's layout")
    for split, files in found.items():
        if len(files) > 1:
            raise UserError(
                f"{folder} has {' and '.join(file.name for file in files)}; say which: --set data.{split}=FILE without "
                f"--data, or leave one in it"
            )
    return str(found["train"][0]), str(found["val"][0]) if found["val"] else None


class _Parts(io.RawIOBase):
    """An object read in large parts, one after another."""

    def __init__(self, place: ShardLocation, name: str, size: int) -> None:
        self._place, self._name, self._size, self._at = place, name, size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._size - self._at)
        if length:
            buffer[:length] = self._place.read(self._name, [(self._at, length)])[0]
        self._at += length
        return length
