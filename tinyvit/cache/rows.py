"""Rows of a store that is far away, read and decoded once for all processes of a machine."""

from __future__ import annotations

import json
import mmap
from typing import Any, BinaryIO

import numpy as np

from logitstore import LogitStore, Rows, digest_of
from tinyvit.cache.folder import CacheFolder

# Where an array begins in a file.
ALIGNED = 64


class CachedRows:
    """The rows of an epoch of a shard of a sealed store, read into a cache when they are first wanted."""

    def __init__(self, store: LogitStore, epoch: int, shard: int, cache: CacheFolder) -> None:
        self._store, self._epoch, self._shard, self._cache = store, epoch, shard, cache

    @property
    def key(self) -> str:
        """What they are called in the cache: the seal vouches for every row of the store."""
        return f"{digest_of([self._store.seal_digest, self._epoch, self._shard])}.rows"

    def read(self) -> Rows:
        """What `store.read` gives; the arrays lie in memory that processes share, and cannot be written."""
        with self._cache.obtain(self.key, self._size, self._save) as file:
            memory = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        place = 8 + int.from_bytes(memory[:8], "little")
        arrays = dict[str, Any]()
        for name, (dtype, shape) in json.loads(bytes(memory[8:place])).items():
            place += -place % ALIGNED
            arrays[name] = np.frombuffer(memory, dtype, int(np.prod(shape)), place).reshape(shape)
            place += arrays[name].nbytes
        return Rows(**arrays)

    def prepare(self, needed: frozenset[str]) -> bool:
        """Have them read ahead of need; see `CacheFolder.prepare`."""
        return self._cache.prepare(self.key, self._size, self._save, needed)

    @property
    def _size(self) -> int:
        """About so many bytes: of each kept class a number and a probability."""
        return self._store.samples[self._shard] * (8 * self._store.spec.top_k + 16) + (1 << 12)

    def _save(self, file: BinaryIO) -> None:
        rows = self._store.read(self._epoch, self._shard)
        arrays = {name: np.ascontiguousarray(array) for name, array in vars(rows).items()}
        head = json.dumps({name: [array.dtype.str, array.shape] for name, array in arrays.items()}).encode()
        file.write(len(head).to_bytes(8, "little") + head)
        for array in arrays.values():
            file.write(bytes(-file.tell() % ALIGNED))
            file.write(array.data)
        file.truncate()
