"""One shard of an indexed data set: its samples by slot, each checked to be the one that the index speaks of.

A slot is what joins a sample with its stored row. That the row is this sample's is never assumed: the key in the
tar's own header must have the digest that index and store know.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyvit.cache import Place
from tinyvit.data.shards import Sample, parse
from tinyvit.errors import UserError

# Of a shard that is read from its beginning to its end: large enough for a disk, small enough for memory.
TOGETHER = 64


@dataclass(frozen=True)
class IndexedShard:
    """A shard and what the index says of it: its place in the data set, and of each slot the digest of the key, the
    key itself and where the sample lies.
    """

    place: Place
    name: str
    number: int
    key_digest: NDArray[np.uint64]
    offset: NDArray[np.uint64]
    length: NDArray[np.uint32]
    key_of: Callable[[int], str]

    @property
    def samples(self) -> int:
        """How many samples the index counts."""
        return len(self.key_digest)

    @property
    def path(self) -> str:
        """Its whole path or URL, for messages."""
        return self.place.url(self.name)

    def read(self, slots: Sequence[int]) -> list[Sample]:
        """The samples of some slots. UserError when the shard is not the one that was indexed."""
        runs = [(int(self.offset[slot]), int(self.length[slot])) for slot in slots]
        contents = self.place.read(self.name, runs)
        return [self._checked(slot, content) for slot, content in zip(slots, contents, strict=True)]

    def read_all(self) -> Iterator[Sample]:
        """Every sample in order."""
        for first in range(0, self.samples, TOGETHER):
            yield from self.read(range(first, min(first + TOGETHER, self.samples)))

    def _checked(self, slot: int, content: bytes) -> Sample:
        sample = parse(self.path, slot, content)
        if key_digest(sample.key) != int(self.key_digest[slot]):
            raise UserError(
                f"{self.path}: slot {slot} holds the key {sample.key!r}, in the index it is {self.key_of(slot)!r}; "
                f"the shard was changed after it was indexed: restore it, or label it into a new store"
            )
        return sample


def key_digest(key: str) -> int:
    """64 bits that stand for a key: BLAKE2b with 8 bytes of output, little-endian."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
