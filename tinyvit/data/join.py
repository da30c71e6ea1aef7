"""The join of a shard with what is known of it: samples in tar order, each checked against the index.

webdataset drops the rest of a damaged tar without a word; a slot counter, key digests and the count of the
index make that impossible to miss.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage import ShardTable
from tinyvit.data.index import key_digest
from tinyvit.data.shards import Sample, read_samples
from tinyvit.errors import UserError


@dataclass(frozen=True)
class IndexedShard:
    """A shard and what the index says of it: its place in the data set and the digest of each slot's key."""

    path: Path
    number: int
    key_digest: NDArray[np.uint64]

    @property
    def samples(self) -> int:
        """How many samples the index counts."""
        return len(self.key_digest)


def indexed_shards(folder: Path, table: ShardTable) -> list[IndexedShard]:
    """The shards of a table in a folder."""
    return [
        IndexedShard(folder / name, number, digests)
        for number, (name, digests) in enumerate(zip(table.name, table.key_digest, strict=True))
    ]


def checked_samples(shard: IndexedShard) -> Iterator[Sample]:
    """The samples of a shard in order. UserError when the shard is not the one that was indexed."""
    count = 0
    for sample in read_samples(shard.path):
        if sample.slot >= shard.samples or key_digest(sample.key) != int(shard.key_digest[sample.slot]):
            raise UserError(
                f"{shard.path}: slot {sample.slot} holds the key {sample.key!r}, the index knows another one; "
                f"the shard was changed after it was indexed: restore it, or label it into a new store"
            )
        count += 1
        yield sample
    if count != shard.samples:
        raise UserError(
            f"{shard.path} ends after {count} of {shard.samples} samples; it is cut short: fetch or make it again"
        )
