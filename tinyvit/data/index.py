"""The index of a data set: which samples its shards hold, where they lie, a digest of every key and of every shard.

It is what a store is bound to and by what samples are read. It is kept beside the shards, or in the user's cache
folder where that cannot be written; what it says of a shard is trusted as long as the shard's size and time of
change are the same. The large part is mapped into memory, so that all processes of a machine share it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from logitstore import ShardTable, write_whole
from tinyvit.cache import CachedShard, CacheFolder
from tinyvit.data.join import IndexedShard, key_digest
from tinyvit.data.location import ShardLocation
from tinyvit.data.shards import BLOCK, extents, image_suffix
from tinyvit.errors import UserError
from tinyvit.runtime.progress import Progress

INDEX_NAME = "index.json"
FORMAT = 2
# Bytes of zeros that end a tar.
TAR_END = 1024
SAMPLE = np.dtype([("key_digest", "<u8"), ("offset", "<u8"), ("length", "<u4"), ("key_bytes", "<u4")])


@dataclass(frozen=True)
class ShardEntry:
    """One shard of the index: [n] samples as SAMPLE and their keys, one after another.

    `stamp` is (bytes, modification time in ns).
    """

    name: str
    sha256: str
    stamp: tuple[int, int]
    samples: NDArray[Any]
    keys: bytes


class ShardIndex:
    """A data set whose index is at hand. Travels to other processes as the names of its files."""

    def __init__(self, place: ShardLocation, folder: Path, cache: CacheFolder | None = None) -> None:
        """Open the index that lies in `folder`. ValueError, KeyError or OSError when it is not whole.

        With a `cache` samples are read from shards that are fetched whole into it.
        """
        self.place, self.folder, self.cache = place, folder, cache
        document = json.loads((folder / INDEX_NAME).read_bytes())
        if document["format"] != FORMAT:
            raise ValueError("of another format")
        self._shards = document["shards"]
        counts = [shard["samples"] for shard in self._shards]
        self._ends = np.cumsum(counts)
        # As plain arrays: indexing a memmap costs microseconds.
        self._samples = np.asarray(np.load(folder / f"{document['files']}.npy", mmap_mode="r", allow_pickle=False))
        self._keys = np.asarray(np.memmap(folder / f"{document['files']}.keys", np.uint8, "r"))
        sizes = [shard["key_bytes"] for shard in self._shards]
        self._key_ends = np.cumsum(sizes)
        if len(self._samples) != sum(counts) or self._samples.dtype != SAMPLE or len(self._keys) != sum(sizes):
            raise ValueError("not whole")

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardIndex, (self.place, self.folder, self.cache)

    def __len__(self) -> int:
        return len(self._shards)

    @property
    def counts(self) -> tuple[int, ...]:
        """How many samples each shard has."""
        return tuple(shard["samples"] for shard in self._shards)

    @cached_property
    def table(self) -> ShardTable:
        """What a store keeps of it."""
        return ShardTable(
            name=tuple(shard["name"] for shard in self._shards),
            samples=self.counts,
            sha256=tuple(shard["sha256"] for shard in self._shards),
            key_digest=tuple(self._of(number)["key_digest"] for number in range(len(self))),
        )

    def shard(self, number: int) -> IndexedShard:
        """One shard, in the order of names."""
        samples = self._of(number)
        return IndexedShard(
            place=self.cached(number) or self.place,
            name=self._shards[number]["name"],
            number=number,
            key_digest=samples["key_digest"],
            offset=samples["offset"],
            length=samples["length"],
            key_of=lambda slot: self.keys(number)[slot],
        )

    def cached(self, number: int) -> CachedShard | None:
        """A shard as the cache has it, or will; None where there is no cache."""
        if self.cache is None:
            return None
        shard = self._shards[number]
        return CachedShard(self.place, shard["name"], shard["stamp"][0], shard["sha256"], self.cache)

    def through(self, cache: CacheFolder | None) -> ShardIndex:
        """The same, read through a cache."""
        return self if cache == self.cache else ShardIndex(self.place, self.folder, cache)

    def shards(self) -> Iterator[IndexedShard]:
        """Every shard."""
        return (self.shard(number) for number in range(len(self)))

    def keys(self, number: int) -> list[str]:
        """The keys of a shard, by slot."""
        blob = self._key_blob(number)
        ends = np.cumsum(self._of(number)["key_bytes"], dtype=np.int64).tolist()
        return [blob[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]

    @property
    def stamps(self) -> dict[str, tuple[int, int]]:
        """Bytes and modification time of each shard when it was indexed, by name."""
        return {shard["name"]: tuple(shard["stamp"]) for shard in self._shards}

    @cached_property
    def class_names(self) -> list[str] | None:
        """What the labels are called; None where nothing is written."""
        return self.place.class_names()

    def entries(self) -> dict[str, ShardEntry]:
        """What it says of each shard, by name."""
        return {
            shard["name"]: ShardEntry(
                shard["name"], shard["sha256"], tuple(shard["stamp"]), self._of(number), self._key_blob(number)
            )
            for number, shard in enumerate(self._shards)
        }

    def _of(self, number: int) -> NDArray[Any]:
        end = int(self._ends[number])
        return self._samples[end - self._shards[number]["samples"] : end]

    def _key_blob(self, number: int) -> bytes:
        end = int(self._key_ends[number])
        return self._keys[end - self._shards[number]["key_bytes"] : end].tobytes()


def index_shards(location: str | Path, progress: Progress) -> ShardIndex:
    """Index every shard of a data set, several at a time, reusing what an earlier index knows.

    UserError for no shards, a cut tar, a sample without an image, a key that occurs twice.
    """
    place = ShardLocation(location)
    names = place.names()
    with ThreadPoolExecutor(min(32, len(names))) as pool:
        stamps = dict(zip(names, pool.map(place.stat, names), strict=True))
    folders = _folders(place)
    for folder in folders:
        index = _load(place, folder)
        seen = index.stamps if index else {}
        stale = [name for name in names if seen.get(name) != stamps[name]]
        if index and not stale and len(seen) == len(names):
            return index
        if index:
            break
    kept = set(names) - set(stale)
    known = {name: entry for name, entry in index.entries().items() if name in kept} if index else {}
    with (
        progress.task("index", sum(stamps[name][0] for name in stale), "B") as bar,
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
    ):
        for entry in pool.map(lambda name: _index_shard(place, name, stamps[name]), stale):
            known[entry.name] = entry
            bar.advance(entry.stamp[0])
    entries = [known[name] for name in names]
    _refuse_duplicates(place, entries)
    return _save(place, folders, entries)


def open_index(location: str | Path, progress: Progress) -> ShardIndex:
    """The index as it was last made, for one of many tasks on a data set that the first of them indexed.

    The shards are not asked whether they are still the same ones: who reads a sample checks it by its key.
    """
    place = ShardLocation(location)
    found = (index for folder in _folders(place) if (index := _load(place, folder)))
    return next(found, None) or index_shards(location, progress)


def shard_faults(place: ShardLocation, progress: Progress) -> list[str]:
    """What is wrong with each shard by itself, where a data set cannot be indexed."""
    faults, names = [], place.names()
    with progress.task("look", len(names), "shards") as bar:
        for name in names:
            try:
                _index_shard(place, name, place.stat(name))
            except UserError as fault:
                faults.append(str(fault))
            bar.advance(1)
    return faults


def _folders(place: ShardLocation) -> list[Path]:
    """Where the index may be: beside the shards, and in the cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    # Without a signature, which is another one tomorrow.
    location = str(place.path.resolve()) if place.path else place.address
    private = cache / "tinyvit" / "index" / hashlib.sha256(os.fsencode(location)).hexdigest()[:16]
    # The index of some shards of a folder must not take the place of the whole folder's.
    return [place.path, private] if place.path and place.whole else [private]


def _load(place: ShardLocation, folder: Path) -> ShardIndex | None:
    """None for no index, or one that cannot be trusted: then everything is read again."""
    try:
        return ShardIndex(place, folder)
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def _index_shard(place: ShardLocation, name: str, stamp: tuple[int, int]) -> ShardEntry:
    where = place.url(name)
    with place.stream(name, stamp[0]) as opened:
        stream = _Digested(opened)
        found, end = extents(where, stream)  # type: ignore[arg-type]
        sha256, size, filled = stream.finish()
    if size < end + TAR_END or size % BLOCK:
        raise UserError(f"{where} is cut short (no end-of-archive marker); fetch or make it again")
    if filled > end:
        raise UserError(
            f"{where} is damaged: its members end at byte {end}, but it goes on, as where two tars were joined; "
            f"fetch or make it again"
        )
    if not found:
        raise UserError(f"{where} holds no samples; remove it or make it again")
    for extent in found:
        image_suffix(where, extent.key, extent.suffixes)
    keys = [extent.key.encode() for extent in found]
    samples = np.array(
        [(key_digest(e.key), e.offset, e.length, len(key)) for e, key in zip(found, keys, strict=True)], SAMPLE
    )
    return ShardEntry(name, sha256, stamp, samples, b"".join(keys))


class _Digested:
    """A stream that digests what is read from it, and knows where its last byte is that is not zero."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._sha, self._size, self._filled = stream, hashlib.sha256(), 0, 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._sha.update(data)
        if kept := len(data.rstrip(b"\0")):
            self._filled = self._size + kept
        self._size += len(data)
        return data

    def finish(self) -> tuple[str, int, int]:
        """SHA-256 of the whole stream, its bytes, and those without the zeros at its end."""
        while self.read(1 << 20):
            pass
        return self._sha.hexdigest(), self._size, self._filled


def _refuse_duplicates(place: ShardLocation, entries: list[ShardEntry]) -> None:
    digests = np.concatenate([entry.samples["key_digest"] for entry in entries])
    values, counts = np.unique(digests, return_counts=True)
    if (counts == 1).all():
        return
    twice = int(values[counts > 1][0])
    places = [(entry, int(slot)) for entry in entries for slot in np.flatnonzero(entry.samples["key_digest"] == twice)]
    (one, slot), (two, _) = places[0], places[-1]
    start = int(one.samples["key_bytes"][:slot].sum())
    key = one.keys[start : start + int(one.samples["key_bytes"][slot])].decode()
    raise UserError(
        f"{place.address}: the key {key!r} occurs twice, in {one.name} and in {two.name}; "
        f"keys must be unique in a data set: remake the shards ({int((counts > 1).sum())} such keys)"
    )


def _save(place: ShardLocation, folders: list[Path], entries: list[ShardEntry]) -> ShardIndex:
    samples = io.BytesIO()
    np.save(samples, np.concatenate([entry.samples for entry in entries]), allow_pickle=False)
    keys = b"".join(entry.keys for entry in entries)
    # Named by their content: the document never speaks of others.
    name = f"index-{hashlib.sha256(samples.getvalue() + keys).hexdigest()[:16]}"
    shards = [
        {
            "name": entry.name,
            "samples": len(entry.samples),
            "sha256": entry.sha256,
            "stamp": list(entry.stamp),
            "key_bytes": len(entry.keys),
        }
        for entry in entries
    ]
    document = json.dumps({"format": FORMAT, "files": name, "shards": shards}, indent=1) + "\n"
    for folder in folders:
        try:
            write_whole(folder / f"{name}.npy", samples.getvalue())
            write_whole(folder / f"{name}.keys", keys)
            write_whole(folder / INDEX_NAME, document.encode())
        except OSError as fault:
            failure = fault
            continue
        for old in (*folder.glob("index-*.npy"), *folder.glob("index-*.keys")):
            if old.stem != name:
                old.unlink(missing_ok=True)
        return ShardIndex(place, folder)
    raise UserError(f"the index of {place.address} cannot be kept in {folders[-1]}: {failure.strerror}")
