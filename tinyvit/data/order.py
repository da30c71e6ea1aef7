"""The order of an epoch: one sequence of views, whoever reads it.

It follows from the index, a seed, the number of the epoch and of lanes alone. Step t of a run on W ranks takes the
next B views, of which each rank takes the next B / W. So every rank does the same number of steps, no view comes
twice, what is left over is known beforehand, and one number, how many views were taken, says where to go on, with
whatever number of ranks, workers or images a batch.

Shards are shuffled, then dealt to lanes of equally many views, each a stretch of that order. Every step takes as many
views of each lane. So a node whose ranks take whole lanes reads shards of its own, but for one that lies on a border
of two lanes. Along a lane shards are taken together in windows; within a window all views are shuffled. A window
bounds what a reader keeps at a time, and how far apart the bytes lie that are read one after another.

Where each reading of an image gives several of its views, one for each of several epochs, steps take turns: in APART
steps each image gives its first view, in the next APART steps, of the same images in the same order, its second, and
so on. So no batch has two views of an image, and whoever made the first can make the others at the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tinyvit.errors import UserError

# Views of shards that are shuffled together: 100 stored classes of each are 20 MB.
WINDOW = 32_768
# Steps from one view of an image to its next, where a reading gives several. A number of data processes that divides
# it is the best: the batches of the same images then fall to the same process.
APART = 24

# Of a shard, [g, k] the slots that follow each other in the order, such as partners; -1 where they are fewer than k.
Groups = Callable[[int], NDArray[np.intp]]


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

    @property
    def share(self) -> range:
        """What of a step's views is this rank's."""
        first, last = (self.batch_size * rank // self.world_size for rank in (self.rank, self.rank + 1))
        return range(first, last)

    def span(self, number: int) -> range:
        """Where in the sequence this rank's batch of this number is."""
        step, part = divmod(number, self.grad_accum_steps)
        share, begin = self.share, self.start + step * self.batch_size
        first, last = (begin + share.start + len(share) * p // self.grad_accum_steps for p in (part, part + 1))
        return range(first, last)

    def spans(self, step: int) -> list[range]:
        """Those of this rank in a step."""
        return [self.span(step * self.grad_accum_steps + part) for part in range(self.grad_accum_steps)]


@dataclass(frozen=True)
class Piece:
    """Some groups of a shard, [first, last) of them; `whole` where these are all."""

    shard: int
    first: int
    last: int
    views: int
    whole: bool


@dataclass(frozen=True)
class Window:
    """Views that are shuffled together: those of `pieces`, from `start` on in their lane."""

    start: int
    pieces: tuple[Piece, ...]

    @property
    def views(self) -> int:
        """How many they are."""
        return sum(piece.views for piece in self.pieces)


@dataclass(frozen=True)
class EpochOrder:
    """The order of one epoch of shards with so many `samples` each (0: the shard is left out), in `lanes` of groups of
    at most `together` views.
    """

    samples: tuple[int, ...]
    seed: int
    epoch: int
    lanes: int = 1
    together: int = 1

    @property
    def total(self) -> int:
        """How many views of it are taken: equally many of each lane, and in every epoch."""
        if self.lanes == 1:
            return sum(self.samples)
        # A border may cut off a group but for one view.
        return self.lanes * max(0, sum(self.samples) // self.lanes - (self.together - 1))

    def share(self, batch_size: int) -> int:
        """How many views of each lane a step of so many takes. UserError where they are not equally many."""
        if batch_size % self.lanes:
            raise UserError(
                f"a batch_size of {batch_size} cannot be shared out to data.lanes={self.lanes}; give a multiple of it"
            )
        return batch_size // self.lanes

    @cached_property
    def _pieces(self) -> list[list[Piece]]:
        """What of which shards each lane has. A shard is cut between two groups."""
        everything = sum(self.samples)
        borders = [everything * lane // self.lanes for lane in range(1, self.lanes)]
        lanes: list[list[Piece]] = [[]]
        start = 0
        for shard in np.random.default_rng([self.seed, self.epoch]).permutation(len(self.samples)).tolist():
            samples, first = self.samples[shard], 0
            groups = -(-samples // self.together)
            while len(lanes) <= len(borders) and borders[len(lanes) - 1] < start + samples:
                last = (borders[len(lanes) - 1] - start) // self.together
                lanes[-1] += self._piece(shard, first, last, groups)
                lanes.append([])
                first = last
            lanes[-1] += self._piece(shard, first, groups, groups)
            start += samples
        return lanes + [[]] * (self.lanes - len(lanes))

    def _piece(self, shard: int, first: int, last: int, groups: int) -> list[Piece]:
        views = min(last * self.together, self.samples[shard]) - first * self.together
        return [Piece(shard, first, last, views, last - first == groups)] if last > first else []

    def windows(self, lane: int = 0) -> list[Window]:
        """The windows of a lane, in order."""
        found: list[Window] = []
        start, size, pieces = 0, 0, list[Piece]()
        for piece in self._pieces[lane]:
            pieces.append(piece)
            size += piece.views
            if size >= WINDOW:
                found.append(Window(start, tuple(pieces)))
                start, size, pieces = start + size, 0, []
        return [*found, Window(start, tuple(pieces))] if pieces else found

    def views(self, lane: int, window: Window, groups: Groups) -> NDArray[np.intp]:
        """[n, 2] shard and slot of the views of a window, those of a group one after the other."""
        begin = window.start + sum(piece.views for pieces in self._pieces[:lane] for piece in pieces)
        found = [self._of_piece(piece, groups(piece.shard)) for piece in window.pieces]
        # Groups of all shards have room for the most that one has.
        width = max(slots.shape[1] for slots in found)
        slots = np.concatenate([np.pad(s, ((0, 0), (0, width - s.shape[1])), constant_values=-1) for s in found])
        shards = np.repeat([piece.shard for piece in window.pieces], [len(s) for s in found])
        order = np.random.default_rng([self.seed, self.epoch, begin]).permutation(len(slots))
        shuffled = np.stack([np.broadcast_to(shards[order, None], slots.shape), slots[order]], axis=2).reshape(-1, 2)
        kept: NDArray[np.intp] = shuffled[shuffled[:, 1] >= 0]
        return kept

    @staticmethod
    def _of_piece(piece: Piece, groups: NDArray[np.intp]) -> NDArray[np.intp]:
        if piece.whole:
            return groups
        # Of a shard that is cut, a group with fewer views comes last: so many groups are so many views.
        fewer = (groups < 0).any(axis=1)
        return groups[np.argsort(fewer, kind="stable")][piece.first : piece.last]


class EpochSequence:
    """Reads the sequence of an epoch, from one position on or in steps. Of each lane it takes `share` views at a time,
    as a step does.
    """

    def __init__(self, order: EpochOrder, groups: Groups, share: int = 1) -> None:
        self._order, self._groups, self._share = order, groups, share
        self._windows = [order.windows(lane) for lane in range(order.lanes)]
        self._starts = [[window.start for window in windows] for windows in self._windows]
        # Of each lane the last window that was asked for.
        self._at = dict[int, tuple[int, NDArray[np.intp]]]()

    def take(self, first: int, count: int) -> NDArray[np.intp]:
        """[count, 2] shard and slot of the views at positions from `first` on."""
        parts, lanes = [], self._order.lanes
        while count:
            turn, inside = divmod(first, lanes * self._share)
            lane, taken = divmod(inside, self._share)
            together = min(count, self._share - taken) if lanes > 1 else count
            place = turn * self._share + taken if lanes > 1 else first
            parts.append(self._along(lane if lanes > 1 else 0, place, together))
            first, count = first + together, count - together
        return np.concatenate(parts)

    def _along(self, lane: int, first: int, count: int) -> NDArray[np.intp]:
        """[count, 2] the views of a lane from its position `first` on."""
        parts = []
        while count:
            number = int(np.searchsorted(self._starts[lane], first, side="right")) - 1
            window = self._windows[lane][number]
            if self._at.get(lane, (-1,))[0] != number:
                self._at[lane] = number, self._order.views(lane, window, self._groups)
            inside = first - window.start
            parts.append(self._at[lane][1][inside : inside + count])
            first, count = first + len(parts[-1]), count - len(parts[-1])
        return np.concatenate(parts)


@dataclass(frozen=True)
class Turns:
    """Which images each step takes, and which of their `views`, of epochs of so many `steps` that are read at once."""

    steps: int
    views: int

    def of(self, step: int) -> tuple[int, int]:
        """Whose images a step takes, by their number among the steps of one epoch, and which view of each."""
        block, inside = divmod(step, APART * self.views)
        view, column = divmod(inside, self._apart(block))
        return block * APART + column, view

    def step(self, images: int, view: int) -> int:
        """The step that takes this view of these images."""
        block, column = divmod(images, APART)
        return block * APART * self.views + view * self._apart(block) + column

    def _apart(self, block: int) -> int:
        return min(APART, self.steps - block * APART)


def pairs(partner: NDArray[np.intp]) -> NDArray[np.intp]:
    """[g, 2] the views of a shard with their partners [S]; a view that is its own is alone."""
    slots = np.arange(len(partner))
    first = slots[slots <= partner]
    return np.stack([first, np.where(partner[first] == first, -1, partner[first])], axis=1)


def blocks(samples: int, size: int) -> NDArray[np.intp]:
    """[g, size] the views of a shard in blocks, as they lie in it."""
    slots = np.arange(-(-samples // size) * size)
    return np.where(slots < samples, slots, -1).reshape(-1, size)
