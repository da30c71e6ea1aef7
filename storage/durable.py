"""A local Zarr store whose writes survive a power cut.

zarr's LocalStore renames a finished temporary file over the key, so a killed process never leaves a torn
object; but it does not fsync (zarr 3.1, storage/_local.py), so after a power cut the name may be there without
the bytes. A commit is worth nothing if what it vouches for can vanish, so here every write is synced.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from zarr.core.buffer import Buffer
from zarr.storage import LocalStore


class DurableLocalStore(LocalStore):
    """LocalStore that returns from `set` only when the object and the folders that name it are on disk."""

    async def _set(self, key: str, value: Buffer, exclusive: bool = False) -> None:
        await super()._set(key, value, exclusive)
        await asyncio.to_thread(self._sync, key)

    def set_sync(self, key: str, value: Buffer) -> None:
        super().set_sync(key, value)
        self._sync(key)

    def _sync(self, key: str) -> None:
        path = self.root / key
        _fsync(path)
        for folder in path.parents:
            _fsync(folder)
            if folder == self.root:
                break


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(root: Path) -> int:
    """Remove the temporary files that killed writers left behind; returns how many. Only when none writes."""
    leftovers = list(root.rglob("*.partial"))
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)
