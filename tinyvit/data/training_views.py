"""Stage 2's stream: the training batches of one epoch.

A batch is a function of its number: which views it has follows from the epoch's order (data/order.py), each view
from its image and its seed (views/), what the teacher said of it from the store. So any number of ranks and workers
read the same epoch, and reading goes on anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitstore import LogitStore, Rows
from tinyvit.cache import Ahead, CachedRows, CacheFolder, Wanted
from tinyvit.config import Augment, Broken, Decode, Missing
from tinyvit.data.batch import Batch, BatchBuilder, BatchShape
from tinyvit.data.index import ShardIndex
from tinyvit.data.order import BatchPartition, EpochOrder, EpochSequence, Turns, blocks, pairs
from tinyvit.data.render_views import DecodedSamples
from tinyvit.errors import UserError
from tinyvit.views import PAIRING_BLOCK, partners, view_seeds


@dataclass(frozen=True)
class Replayed:
    """The epoch whose views, of `run_seed`, are made again, and the store at `location` that has logits for them.

    `missing` are the shards that have no logits in it. Without a location a live teacher is asked.
    """

    epoch: int
    run_seed: int
    location: str | None
    missing: frozenset[int] = frozenset()


@dataclass(frozen=True)
class TrainingViews:
    """One epoch of training views, `batch_size` a step on all ranks together.

    They are those of a `replayed` epoch or fresh ones, whose seeds follow from `seed` and `epoch`, which also decide
    the order. Where several are replayed, each image that is read gives its views of all of them; they fill so many
    equal parts, of which this is the one of number `part`. `start` views of it were taken before. Each of the
    `world_size` ranks takes an equal share of a step, in `grad_accum_steps` batches; a step takes as many views of each
    of the order's `lanes`. Of a broken image or logits that are missing, `broken` and `missing` say what becomes.
    `labels` asks for the views' labels, `label_classes` has the class of each label (None: its own number);
    `teacher_size` asks for the views as a live teacher is shown them. `shards` are those that are read, where it is not
    all of them. Rows of a sealed store go through the `row_cache`, as shards go through the index's, where there is
    one. `kept` is shared by epochs that are read one after another.
    """

    index: ShardIndex
    augment: Augment
    decode: Decode
    size: int
    num_classes: int
    batch_size: int
    epoch: int
    seed: int
    replayed: tuple[Replayed, ...] = ()
    part: int = 0
    labels: bool = False
    label_classes: tuple[int, ...] | None = None
    teacher_size: int | None = None
    missing: Missing = "error"
    broken: Broken = "error"
    rank: int = 0
    world_size: int = 1
    grad_accum_steps: int = 1
    start: int = 0
    lanes: int = 1
    shards: frozenset[int] | None = None
    row_cache: CacheFolder | None = None
    kept: Kept = field(default_factory=lambda: Kept(), compare=False)

    @property
    def counts(self) -> tuple[int, ...]:
        """How many views of each shard are to be read, whether there are logits or not."""
        return counts_of(self.index, self.shards)

    @property
    def epochs(self) -> tuple[Replayed, ...]:
        """Those whose views each reading of an image gives."""
        return self.replayed or (Replayed(self.epoch, self.seed, None),)

    @cached_property
    def order(self) -> EpochOrder:
        """The sequence that the epoch takes its views from."""
        absent = frozenset.intersection(*(epoch.missing for epoch in self.epochs))
        left_out = absent if self.missing == "skip" else frozenset[int]()
        counts = tuple(0 if shard in left_out else n for shard, n in enumerate(self.counts))
        return EpochOrder(counts, self.seed, self.epoch, self.lanes, views_together(self.augment, len(self.epochs)))

    @property
    def partition(self) -> BatchPartition:
        """What of the order this rank reads, and when."""
        return BatchPartition(
            self.order.total, self.batch_size, self.rank, self.world_size, self.grad_accum_steps, self.start
        )

    @property
    def steps(self) -> int:
        """How many steps are left; each rank reads `grad_accum_steps` batches for each."""
        return self.partition.steps

    @property
    def items(self) -> int:
        """How many batches this rank reads."""
        return self.partition.items

    @property
    def left_out(self) -> int:
        """How many views no rank reads, because they fill no whole step or their shard has no logits."""
        return sum(self.counts) - self.start - self.steps * self.batch_size

    def read(self, worker: int, workers: int) -> Iterator[Batch]:
        """The batches of one worker of this rank."""
        source = self.kept.source_of(self)
        first = self._first
        mine = range(first + worker, first + self.items, workers)
        with Ahead(source.stretches(), source.stretch(mine[0]) if mine else 0) as ahead:
            for number in mine:
                ahead.reached(source.stretch(number))
                yield source.take(number, workers)

    def keys(self, step: int) -> list[str]:
        """Shard and key of the views that this rank takes in a step, for a message."""
        first, source = self._first + step * self.grad_accum_steps, _Source(self)
        places = np.concatenate([source.places(first + part)[0] for part in range(self.grad_accum_steps)])
        return [f"{self.index.table.name[shard]}: {self.index.keys(shard)[slot]}" for shard, slot in places.tolist()]

    @property
    def _first(self) -> int:
        """Which of this rank's batches of all parts is the first one that is left of this."""
        whole = replace(self.partition, start=self.start % self.batch_size)
        return self.part * whole.items + self.start // self.batch_size * self.grad_accum_steps


def views_together(augment: Augment, several: int) -> int:
    """How many views of a shard follow each other in the order: partners, or where they differ from one view of an
    image to the next, of which each reading gives `several`, all that may be partners.
    """
    if not augment.mixes:
        return 1
    return 2 if several == 1 else PAIRING_BLOCK


def counts_of(index: ShardIndex, shards: frozenset[int] | None) -> tuple[int, ...]:
    """How many samples each shard has; none where only some `shards` are wanted and it is not among them."""
    return tuple(n if shards is None or shard in shards else 0 for shard, n in enumerate(index.counts))


class Kept:
    """What a process that reads epochs one after another keeps from one to the next. It travels empty."""

    def __init__(self) -> None:
        self._source: _Source | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Kept, ()

    def source_of(self, views: TrainingViews) -> _Source:
        """What the views are read from: the same for all parts of a reading."""
        if self._source is None or not self._source.gives(views):
            self._source = _Source(views, self._source)
        return self._source


class _Source:
    """What a worker keeps while it reads: connections, and what is known of the shards of a window."""

    def __init__(self, views: TrainingViews, before: _Source | None = None) -> None:
        self._views, self._epochs = views, views.epochs
        # Opened here, in the worker: connections must not be carried over from another process.
        self._store: LogitStore | None = _opened(self._epochs[0].location, before._store if before else None)
        self._row_cache = views.row_cache if self._store and self._store.sealed else None
        self._shape = BatchShape(
            views.size,
            views.teacher_size,
            views.num_classes,
            self._store.spec.top_k if self._store else 0,
            views.labels,
            views.augment.mixes,
        )
        order, several = views.order, len(self._epochs)
        self._partition = replace(views.partition, start=views.start % views.batch_size)
        self._turns = Turns(self._partition.steps, several)
        self._sequence = EpochSequence(order, self._groups, order.share(views.batch_size))
        # A batch may begin in one window and end in the next.
        most = max(len(window.pieces) for lane in range(order.lanes) for window in order.windows(lane))
        together = 2 * most * order.lanes
        self._shard = lru_cache(together)(views.index.shard)
        self._rows = lru_cache(together * several)(self._read_rows)
        self._seeds = lru_cache(together * several)(self._seeds_of)
        self._partners = lru_cache(together * several)(
            lambda epoch, shard: partners(self._seeds(epoch, shard), views.augment)
        )
        # This rank's windows in the order in which they are needed.
        lanes = {place * order.lanes // views.batch_size for place in self._partition.share}
        self._windows = sorted(
            (window for lane in lanes for window in order.windows(lane)), key=lambda window: window.start
        )
        self._refuse_small_cache()
        # Batches that were made at the same time as one of the same images, by their numbers.
        self._made = dict[int, Batch]()

    def _refuse_small_cache(self) -> None:
        """UserError where the shards of a window have no room in the cache together."""
        index = self._views.index
        if index.cache is None:
            return
        sizes = [size for size, _ in index.stamps.values()]
        most = max(sum(sizes[piece.shard] for piece in window.pieces) for window in self._windows)
        if most > index.cache.size:
            raise UserError(
                f"shards of {most:,} bytes are shuffled together, and the cache {index.cache.path} may have "
                f"{index.cache.size:,}; raise data.cache_size, or set data.cache to a folder with more room"
            )

    def gives(self, views: TrainingViews) -> bool:
        """Whether these views are another part of the same reading."""
        one, other = (replace(v, part=0, start=v.start % v.batch_size) for v in (views, self._views))
        return one == other

    def stretches(self) -> list[list[Wanted]]:
        """What each window needs of the caches."""
        if not (self._views.index.cache or self._row_cache):
            return []
        return [[wanted for piece in window.pieces for wanted in self._wanted(piece.shard)] for window in self._windows]

    def _wanted(self, shard: int) -> Iterator[Wanted]:
        if cached := self._views.index.cached(shard):
            yield cached
        if self._store and self._row_cache:
            for epoch in (replayed.epoch for replayed in self._epochs if shard not in replayed.missing):
                yield CachedRows(self._store, epoch, shard, self._row_cache)

    def stretch(self, number: int) -> int:
        """Which window is the first that a batch, or one after it, needs."""
        step = self._turn(number)[0] // self._partition.grad_accum_steps
        along = (self._partition.start + step * self._views.batch_size) // self._views.order.lanes
        return next((i for i, window in enumerate(self._windows) if window.start + window.views > along), 0)

    def places(self, number: int) -> tuple[NDArray[np.intp], int]:
        """[n, 2] shard and slot of the views of a batch, numbered through all parts, and of which epoch they are."""
        images, epoch = self._turn(number)
        span = self._partition.span(images)
        return self._sequence.take(span.start, len(span)), epoch

    def take(self, number: int, workers: int) -> Batch:
        """A batch. Others of the same images that the same of `workers` will be asked for are made with it."""
        if number not in self._made:
            images, now = self._turn(number)
            step, part = divmod(images, self._partition.grad_accum_steps)
            numbers = {
                epoch: self._turns.step(step, epoch) * self._partition.grad_accum_steps + part
                for epoch in range(now, len(self._epochs))
            }
            mine = [epoch for epoch, other in numbers.items() if (other - number) % workers == 0]
            for epoch, batch in zip(mine, self._batches(self.places(number)[0], mine), strict=True):
                self._made[numbers[epoch]] = batch
        return self._made.pop(number)

    def _turn(self, number: int) -> tuple[int, int]:
        """Whose images a batch has, by their number among the batches of an epoch, and of which epoch its views are."""
        step, part = divmod(number, self._partition.grad_accum_steps)
        images, epoch = self._turns.of(step)
        return images * self._partition.grad_accum_steps + part, epoch

    def _batches(self, places: NDArray[np.intp], epochs: Sequence[int]) -> list[Batch]:
        """The batches of the views of some epochs of these images, [n, 2] shard and slot, each decoded once."""
        drafts = [BatchBuilder(len(places), self._shape) for _ in epochs]
        skips = self._store and self._views.missing == "skip"
        for shard in np.unique(places[:, 0]).tolist():
            here = np.flatnonzero(places[:, 0] == shard)
            slots = places[here, 1]
            stored = [self._stored(epoch, shard, slots) for epoch in epochs]
            taken = stored if skips else [np.ones(len(slots), bool)] * len(epochs)
            wanted = slots[np.logical_or.reduce(taken)]
            mates = [self._partners(epoch, shard)[wanted].tolist() for epoch in epochs]
            images = DecodedSamples(self._shard(shard), [*wanted, *chain(*mates)], self._views.decode)
            for draft, epoch, has, these in zip(drafts, epochs, stored, taken, strict=True):
                self._fill(draft, epoch, images, here[these], slots[these], has[these])
        return [draft.batch() for draft in drafts]

    def _stored(self, epoch: int, shard: int, slots: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Whether there are logits of these slots."""
        rows = self._rows(epoch, shard)
        return rows.valid[slots] if rows else np.zeros(len(slots), bool)

    def _fill(
        self,
        draft: BatchBuilder,
        epoch: int,
        images: DecodedSamples,
        here: NDArray[np.intp],
        slots: NDArray[np.intp],
        stored: NDArray[np.bool_],
    ) -> None:
        """Make the views of some slots of a shard, for the places `here` of a batch."""
        views, shard, number = self._views, images.shard, images.shard.number
        rows, seeds, partner = self._rows(epoch, number), self._seeds(epoch, number), self._partners(epoch, number)
        draft.seeds[here] = seeds[slots]
        for pixels in draft.pixels:
            made = images.views(slots.tolist(), seeds, partner, views.augment, pixels.shape[1])
            if views.broken == "error":
                made.whole()
            draft.show(here, made, pixels)
        kept = draft.kept[here]
        if rows:
            draft.signal.take_rows(here[kept & stored], rows, slots[kept & stored])
        missing = np.flatnonzero(kept & ~stored) if self._store else np.empty(0, np.intp)
        if views.missing == "error" and len(missing):
            slot, replayed = int(slots[missing[0]]), self._epochs[epoch]
            raise UserError(
                f"the store {replayed.location} has no logits for {made.samples[slot].key!r} (slot {slot} of "
                f"{shard.path}, stored epoch {replayed.epoch}); set the stage's missing=skip to leave such "
                f"views out, or missing=label to train on their labels"
            )
        draft.labelled += len(missing)
        asked = [(draft.signal, missing)] + ([(draft.labels, np.flatnonzero(kept))] if views.labels else [])
        for targets, chosen in asked:
            for i in chosen.tolist():
                labels, shares = made.label(int(slots[i]), int(partner[slots[i]]), seeds, views.augment)
                known = range(views.num_classes) if views.label_classes is None else views.label_classes
                if max(labels) >= len(known):
                    raise UserError(
                        f"{shard.path}: {made.samples[int(slots[i])].key!r} or its partner has the label "
                        f"{max(labels)}, but there are {len(known)} classes; mend it, or classes.txt"
                    )
                targets.label(int(here[i]), [known[label] for label in labels], shares)

    def _groups(self, shard: int) -> NDArray[np.intp]:
        """The views of a shard that follow each other in the order."""
        views = self._views
        if views.augment.mixes and len(self._epochs) == 1:
            return pairs(self._partners(0, shard))
        return blocks(views.index.counts[shard], PAIRING_BLOCK if views.augment.mixes else 1)

    def _read_rows(self, epoch: int, shard: int) -> Rows | None:
        replayed = self._epochs[epoch]
        if self._store is None or shard in replayed.missing:
            return None
        if self._row_cache:
            return CachedRows(self._store, replayed.epoch, shard, self._row_cache).read()
        return self._store.read(replayed.epoch, shard)

    def _seeds_of(self, epoch: int, shard: int) -> NDArray[np.uint32]:
        if (rows := self._rows(epoch, shard)) is not None:
            return rows.seed
        replayed, index = self._epochs[epoch], self._shard(shard)
        return view_seeds(replayed.run_seed, index.name, replayed.epoch, index.samples)


def _opened(location: str | None, before: LogitStore | None) -> LogitStore | None:
    """The store at a location, the one of the reading before where it is the same."""
    if location is None or (before and before.location == location):
        return before if location else None
    return LogitStore.open(location)
