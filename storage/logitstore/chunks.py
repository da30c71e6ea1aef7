"""One array of one unit as the bytes of a Zarr shard object, and back.

The format is Zarr version 3's own (sharding codec: chunks, then an index of their offsets and lengths, then its
CRC-32C), and stock zarr reads it. It is written and read here because a unit is always written whole and an
epoch always read whole, for which zarr's general path takes a millisecond an array: as long as the reading of
a thousand rows may take.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import Blosc, blosc
from numpy.typing import NDArray

from logitstore.objects import ByteRange

CHECKSUM_BYTES = 4
# What the index says of a chunk that is not there: epochs past the end in the last block.
ABSENT = 2**64 - 1
# Level 1: higher ones look for repetitions that rows of a teacher do not have, and come out larger.
LEVEL = 1
BLOCK_BYTES = 1 << 20

# The values of one epoch of a unit, by array.
Values = dict[str, NDArray[Any]]


class DamagedObject(ValueError):
    """Bytes that are not what was written."""


def checksum(data: bytes | memoryview) -> bytes:
    """CRC-32C, little-endian: the last four bytes of every chunk, index and small object."""
    return int(google_crc32c.value(bytes(data))).to_bytes(CHECKSUM_BYTES, "little")


def checked(data: bytes | memoryview, what: str) -> memoryview:
    """The bytes before a checksum that fits them. DamagedObject where it does not."""
    body, tail = memoryview(data)[:-CHECKSUM_BYTES], memoryview(data)[-CHECKSUM_BYTES:]
    if len(data) < CHECKSUM_BYTES or checksum(body) != tail:
        raise DamagedObject(f"{what} is damaged: its checksum does not fit")
    return body


@dataclass(frozen=True)
class UnitArray:
    """How one array keeps a unit: `chunks` epochs of values of `shape` (its dimensions are `dims`), each a chunk of
    its own.

    With `entry_first` a chunk [slot, entry] lies in memory as [entry, slot]. `about` says what the values are.
    """

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    dims: tuple[str, ...]
    chunks: int
    about: str
    entry_first: bool = False

    @property
    def shuffle(self) -> int:
        """Bytes of equal weight lie together where a value has several."""
        return int(Blosc.SHUFFLE if self.dtype.itemsize > 1 else Blosc.NOSHUFFLE)

    @property
    def index_part(self) -> int:
        """Where the index begins, counted from the end."""
        return -(16 * self.chunks + CHECKSUM_BYTES)

    def key(self, block: int, shard: int) -> str:
        """The key of the object that holds a unit."""
        return "/".join([self.name, "c", str(block), str(shard), *("0" for _ in self.shape)])

    def padded(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """Values of fewer slots as a chunk of this array's shape, zeros behind them."""
        whole = np.zeros(self.shape, self.dtype)
        whole[: len(values)] = values
        return np.ascontiguousarray(whole.T) if self.entry_first else whole

    def encode(self, epochs: Sequence[NDArray[np.generic]]) -> tuple[bytes, list[bytes]]:
        """The object that holds these epochs ([*shape], or [entry, slot] in memory), and their checksums."""
        codec = Blosc("zstd", LEVEL, self.shuffle, BLOCK_BYTES)
        index = np.full((self.chunks, 2), ABSENT, "<u8")
        parts: list[bytes] = []
        checksums = []
        offset = 0
        for number, values in enumerate(epochs):
            packed = codec.encode(np.ascontiguousarray(values, self.dtype))
            checksums.append(checksum(packed))
            parts += [packed, checksums[-1]]
            index[number] = offset, len(packed) + CHECKSUM_BYTES
            offset += len(packed) + CHECKSUM_BYTES
        packed_index = index.tobytes()
        return b"".join([*parts, packed_index, checksum(packed_index)]), checksums

    def chunk_part(self, block: int, shard: int, index: bytes, number: int) -> ByteRange:
        """Where a chunk of an object lies, by the index [index_part:] at its end. DamagedObject for a bad one."""
        entries = checked(index, f"the index of {self.name}")
        if len(entries) != 16 * self.chunks:
            raise DamagedObject(f"{self.name} is cut short")
        start, length = struct.unpack_from("<2Q", entries, 16 * number)
        if start == ABSENT:
            raise DamagedObject(f"{self.name} lacks an epoch")
        return ByteRange(self.key(block, shard), start, length)

    def decode(self, chunk: memoryview) -> tuple[NDArray[np.generic], bytes]:
        """The values of a chunk (read-only; [entry, slot] with `entry_first`) and its checksum."""
        body = checked(chunk, self.name)
        shape = self.shape[::-1] if self.entry_first else self.shape
        try:
            values = np.frombuffer(blosc.decompress(body), self.dtype)
        except (RuntimeError, ValueError) as fault:
            raise DamagedObject(f"{self.name} is damaged: {fault}") from fault
        if values.size != math.prod(shape):
            raise DamagedObject(f"{self.name} has {values.size} values where {shape} belong")
        return values.reshape(shape), bytes(chunk[-CHECKSUM_BYTES:])
