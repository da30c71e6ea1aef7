"""Shards of a place that is far away, read as whole files of a cache."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import BinaryIO, Protocol

from tinyvit.cache.folder import CacheFolder
from tinyvit.errors import UserError

# Bytes of a request, and requests for a shard that are under way at once.
PART_BYTES = 8 << 20
AT_ONCE = 4


class Place(Protocol):
    """Where shards are."""

    def url(self, name: str) -> str:
        """A shard's whole path or URL, for messages."""
        ...

    def read(self, name: str, extents: list[tuple[int, int]]) -> list[bytes]:
        """Runs of bytes (offset, length) of a shard. UserError when it has not so many any more."""
        ...


class CachedShard:
    """A shard of a place, fetched whole into a cache when it is first read, and checked there against what the index
    says: its bytes and SHA-256.
    """

    def __init__(self, place: Place, name: str, size: int, sha256: str, cache: CacheFolder) -> None:
        self._place, self._name, self._size, self._sha256, self._cache = place, name, size, sha256, cache

    @property
    def key(self) -> str:
        """What it is called in the cache: the same bytes are kept once, wherever they are from."""
        return f"{self._sha256}.tar"

    def url(self, name: str) -> str:
        """Its whole path or URL, for messages."""
        return self._place.url(name)

    def read(self, _name: str, extents: list[tuple[int, int]]) -> list[bytes]:
        """Runs of its bytes. UserError where it cannot be had, or is another one than was indexed."""
        handle = self._file.fileno()
        return [os.pread(handle, length, offset) for offset, length in extents]

    def prepare(self, needed: frozenset[str]) -> bool:
        """Have it fetched ahead of need; see `CacheFolder.prepare`."""
        return self._cache.prepare(self.key, self._size, self._fetch, needed)

    @cached_property
    def _file(self) -> BinaryIO:
        return self._cache.obtain(self.key, self._size, self._fetch)

    def _fetch(self, file: BinaryIO) -> None:
        """Write it, in parts of which several are under way at once."""
        digest, coming = hashlib.sha256(), deque[Future[list[bytes]]]()
        pool = ThreadPoolExecutor(AT_ONCE)
        try:
            for start in range(0, self._size, PART_BYTES):
                part = start, min(PART_BYTES, self._size - start)
                coming.append(pool.submit(self._place.read, self._name, [part]))
                if len(coming) == AT_ONCE:
                    _write(coming.popleft(), file, digest)
            while coming:
                _write(coming.popleft(), file, digest)
        finally:
            pool.shutdown(cancel_futures=True)
        if digest.hexdigest() != self._sha256:
            raise UserError(
                f"{self.url(self._name)} is not the shard that was indexed (its SHA-256 is another one): it was "
                f"changed; restore it, or label it into a new store"
            )


def _write(part: Future[list[bytes]], file: BinaryIO, digest: hashlib._Hash) -> None:
    (data,) = part.result()
    digest.update(data)
    file.write(data)
