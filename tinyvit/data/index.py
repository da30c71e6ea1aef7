"""The index of a shard folder: names, counts, SHA-256 and a digest of every key.

It is what a store is bound to. It is kept beside the shards as `index.npz` where that folder can be written;
an entry is trusted as long as the file's size and time of change are the same.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage import ShardTable, write_whole
from tinyvit.data.shards import list_shards, read_samples
from tinyvit.errors import UserError
from tinyvit.progress import Progress

INDEX_NAME = "index.npz"
TAR_END = bytes(1024)


@dataclass(frozen=True)
class ShardEntry:
    """One shard of the index; `stamp` is (bytes, modification time in ns)."""

    name: str
    samples: int
    sha256: str
    key_digest: NDArray[np.uint64]
    stamp: tuple[int, int]


def key_digest(key: str) -> int:
    """64 bits that stand for a key: BLAKE2b with 8 bytes of output, little-endian."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def index_folder(folder: Path, progress: Progress) -> ShardTable:
    """Index every shard of a folder, in parallel, reusing what an earlier index knows.

    UserError for no shards, a cut tar, a sample without an image, a key that occurs twice.
    """
    shards = list_shards(folder)
    known = _load(folder / INDEX_NAME)
    stale = [shard for shard in shards if not _is_current(shard, known)]
    if stale:
        with (
            progress.task("index", sum(s.stat().st_size for s in stale), "B") as bar,
            ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        ):
            for entry in pool.map(_index_shard, stale):
                known[entry.name] = entry
                bar.advance(entry.stamp[0])
    entries = [known[shard.name] for shard in shards]
    _refuse_duplicates(folder, entries)
    if stale or len(known) != len(entries):
        _save(folder / INDEX_NAME, entries)
    return ShardTable(
        name=tuple(e.name for e in entries),
        samples=tuple(e.samples for e in entries),
        sha256=tuple(e.sha256 for e in entries),
        key_digest=tuple(e.key_digest for e in entries),
    )


def _index_shard(shard: Path) -> ShardEntry:
    status = shard.stat()
    with shard.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(max(0, status.st_size - len(TAR_END)))
        ended = file.read() == TAR_END and status.st_size % 512 == 0
    # A tar cut between two members reads as a shorter, healthy one; only its end marker is missing.
    if not ended:
        raise UserError(f"{shard} is cut short (no end-of-archive marker); fetch or make it again")
    keys = [sample.key for sample in read_samples(shard)]
    if not keys:
        raise UserError(f"{shard} holds no samples; remove it or make it again")
    digests = np.array([key_digest(key) for key in keys], np.uint64)
    return ShardEntry(shard.name, len(keys), sha256, digests, (status.st_size, status.st_mtime_ns))


def _refuse_duplicates(folder: Path, entries: list[ShardEntry]) -> None:
    digests = np.concatenate([e.key_digest for e in entries])
    values, counts = np.unique(digests, return_counts=True)
    if (counts == 1).all():
        return
    twice = int(values[counts > 1][0])
    places = [
        (sample.key, entry.name)
        for entry in entries
        if twice in entry.key_digest
        for sample in read_samples(folder / entry.name)
        if key_digest(sample.key) == twice
    ]
    raise UserError(
        f"the key {places[0][0]!r} occurs twice, in {places[0][1]} and in {places[-1][1]}; "
        f"keys must be unique in a data set: remake the shards ({int((counts > 1).sum())} such keys)"
    )


def _is_current(shard: Path, known: dict[str, ShardEntry]) -> bool:
    status = shard.stat()
    return shard.name in known and known[shard.name].stamp == (status.st_size, status.st_mtime_ns)


def _entries(arrays: Any) -> Iterator[ShardEntry]:
    ends = np.cumsum(arrays["samples"])
    for i, name in enumerate(arrays["name"]):
        count = int(arrays["samples"][i])
        yield ShardEntry(
            name=str(name),
            samples=count,
            sha256=str(arrays["sha256"][i]),
            key_digest=arrays["key_digest"][ends[i] - count : ends[i]],
            stamp=(int(arrays["stamp"][i][0]), int(arrays["stamp"][i][1])),
        )


def _load(path: Path) -> dict[str, ShardEntry]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {entry.name: entry for entry in _entries(dict(arrays))}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return {}  # no index, or one that cannot be trusted: everything is read again


def _save(path: Path, entries: list[ShardEntry]) -> None:
    """Keep the index beside the shards; a folder that cannot be written simply keeps none."""
    if not os.access(path.parent, os.W_OK):
        return
    buffer = io.BytesIO()
    np.savez(
        buffer,
        name=np.array([e.name for e in entries]),
        samples=np.array([e.samples for e in entries], np.int64),
        sha256=np.array([e.sha256 for e in entries]),
        key_digest=np.concatenate([e.key_digest for e in entries]),
        stamp=np.array([e.stamp for e in entries], np.int64),
    )
    write_whole(path, buffer.getvalue())
