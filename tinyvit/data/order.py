"""The order of an epoch: one sequence of views, whoever reads it.

It follows from the index, a seed and the number of the epoch alone. Step t of a run on W ranks takes the next W * B
views, of which rank r takes the r-th B. So every rank does the same number of steps, no view comes twice, what is
left over is known beforehand, and one number, how many views were taken, says where to go on, with whatever number
of ranks, workers or images a batch.

Shards are shuffled, then taken together in windows; within a window all views are shuffled. A window bounds what a
reader keeps of the store at a time, and how far apart the bytes lie that are read one after another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Views of shards that are shuffled together: 100 stored classes of each are 20 MB.
WINDOW = 32_768

# Of a shard, the partner of each slot; its own slot where it has none.
Partners = Callable[[int], NDArray[np.intp]]


@dataclass(frozen=True)
class BatchPartition:
    """How an epoch of `total` views, of which `start` were taken before, is divided: `batch_size` a step, of which each
    of `world_size` ranks takes its share in `grad_accum_steps` batches.
    """

    total: int
    batch_size: int
    rank: int = 0
    world_size: int = 1
    grad_accum_steps: int = 1
    start: int = 0

    @property
    def steps(self) -> int:
        """How many steps are left."""
        return (self.total - self.start) // self.batch_size

    @property
    def items(self) -> int:
        """How many batches this rank reads."""
        return self.steps * self.grad_accum_steps

    def span(self, number: int) -> range:
        """Where in the sequence this rank's batch of this number is."""
        step, part = divmod(number, self.grad_accum_steps)
        share = [self.batch_size * rank // self.world_size for rank in (self.rank, self.rank + 1)]
        start, stop = (share[0] + (share[1] - share[0]) * p // self.grad_accum_steps for p in (part, part + 1))
        begin = self.start + step * self.batch_size
        return range(begin + start, begin + stop)

    def spans(self, step: int) -> list[range]:
        """Those of this rank in a step."""
        return [self.span(step * self.grad_accum_steps + part) for part in range(self.grad_accum_steps)]


@dataclass(frozen=True)
class EpochOrder:
    """The order of one epoch of shards with so many `samples` each (0: the shard is left out)."""

    samples: tuple[int, ...]
    seed: int
    epoch: int

    @property
    def total(self) -> int:
        """How many views the epoch has."""
        return sum(self.samples)

    def windows(self) -> list[tuple[int, list[int]]]:
        """Where each window begins in the sequence, and its shards."""
        found: list[tuple[int, list[int]]] = []
        start, size = 0, WINDOW
        for shard in np.random.default_rng([self.seed, self.epoch]).permutation(len(self.samples)):
            if not self.samples[shard]:
                continue
            if size >= WINDOW:
                found.append((start, []))
                size = 0
            found[-1][1].append(int(shard))
            size += self.samples[shard]
            start += self.samples[shard]
        return found

    def views(self, start: int, shards: list[int], partners: Partners) -> NDArray[np.intp]:
        """[n, 2] shard and slot of the views of a window, partners one after the other."""
        pairs = np.concatenate([_pairs(shard, partners(shard)) for shard in shards])
        shuffled = np.random.default_rng([self.seed, self.epoch, start]).permutation(pairs)
        flat: NDArray[np.intp] = shuffled.reshape(-1, 2)
        return flat[flat[:, 1] >= 0]


def _pairs(shard: int, partner: NDArray[np.intp]) -> NDArray[np.intp]:
    """[m, 2, 2] the pairs of a shard: twice (shard, slot), with slot -1 for a partner that there is not."""
    slots = np.arange(len(partner))
    first = slots[slots <= partner]
    second = np.where(partner[first] == first, -1, partner[first])
    return np.stack([np.stack([np.full_like(pair, shard), pair], axis=1) for pair in (first, second)], axis=1)


class EpochSequence:
    """Reads the sequence of an epoch, from one position on or in steps."""

    def __init__(self, order: EpochOrder, partners: Partners) -> None:
        self._order, self._partners = order, partners
        self._windows = order.windows()
        self._starts = [start for start, _ in self._windows]
        self._at: tuple[int, NDArray[np.intp]] | None = None

    def take(self, first: int, count: int) -> NDArray[np.intp]:
        """[count, 2] shard and slot of the views at positions from `start` on."""
        parts = []
        while count:
            number = int(np.searchsorted(self._starts, first, side="right")) - 1
            if self._at is None or self._at[0] != number:
                self._at = number, self._order.views(*self._windows[number], self._partners)
            inside = first - self._starts[number]
            parts.append(self._at[1][inside : inside + count])
            first, count = first + len(parts[-1]), count - len(parts[-1])
        return np.concatenate(parts)
