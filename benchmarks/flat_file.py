"""The baseline: flat records as the paper's release describes them, read by key.

One binary file of records (int32 seed, K int16 class ids, K float16 probabilities, best first) and a text file
of keys beside it, whose line number is the record's. Nothing is checksummed, synced or compressed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# What a probability of 0, and a residual that came out as 0 or below, are read as: half of float16's least number.
NOTHING = 2.0**-25


def record_dtype(top_k: int) -> np.dtype[np.void]:
    """One record."""
    return np.dtype([("seed", "<i4"), ("class_id", "<i2", (top_k,)), ("probability", "<f2", (top_k,))])


def write(
    path: Path, keys: Sequence[str], seed: NDArray[np.integer], class_id: NDArray[np.integer], p: NDArray[np.floating]
) -> None:
    """Rows [N], [N, K], [N, K] one after another."""
    records = np.zeros(len(keys), record_dtype(class_id.shape[1]))
    records["seed"] = seed.astype(np.uint32).view(np.int32)
    records["class_id"] = class_id
    records["probability"] = p
    path.write_bytes(records.tobytes())
    path.with_suffix(".keys").write_text("".join(f"{key}\n" for key in keys))


def total_bytes(path: Path) -> int:
    """Records and keys."""
    return path.stat().st_size + path.with_suffix(".keys").stat().st_size


class FlatFile:
    """Reads records by key."""

    def __init__(self, path: Path, top_k: int) -> None:
        self._top_k = top_k
        self._size = record_dtype(top_k).itemsize
        self._file = path.open("rb")
        self._place = {key: number for number, key in enumerate(path.with_suffix(".keys").read_text().splitlines())}

    def keys(self) -> list[str]:
        """Every key in the order of the records."""
        return list(self._place)

    def read(self, key: str) -> tuple[int, NDArray[np.int16], NDArray[np.float32]]:
        """Seed, class ids [K] and probabilities [K], these as float32, as the store gives them."""
        self._file.seek(self._place[key] * self._size)
        record = self._file.read(self._size)
        ids = np.frombuffer(record, "<i2", self._top_k, 4)
        p = np.frombuffer(record, "<f2", self._top_k, 4 + 2 * self._top_k)
        return int.from_bytes(record[:4], "little"), ids, p.astype(np.float32)
