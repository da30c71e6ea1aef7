"""Stage 2's stream: the training batches of one epoch.

A batch is a function of its number: which views it has follows from the epoch's order (data/order.py), each view
from its image and its seed (replay/), what the teacher said of it from the store. So any number of ranks and workers
read the same epoch, and reading goes on anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from storage import LogitStore, Rows
from tinyvit.config import Augment, Missing
from tinyvit.data.images import BrokenImage
from tinyvit.data.index import ShardIndex
from tinyvit.data.made_views import make_views
from tinyvit.data.order import EpochOrder, EpochSequence
from tinyvit.errors import UserError
from tinyvit.replay import partners, view_seeds


@dataclass(frozen=True)
class Batch:
    """At most B training views and what is to be learned of each; fewer where some are left out.

    views [B, H, W, 3] uint8; class_id [B, K] int64, best first; probability [B, K] float32, 0 where there is no
    such class; residual [B] float32. Of a stage on labels these are the label and, where the view is mixed, its
    partner's. `skipped` views were left out, `labelled` ones lack an answer and have their label in its place.
    """

    views: Tensor
    class_id: Tensor
    probability: Tensor
    residual: Tensor
    skipped: int
    labelled: int

    def __len__(self) -> int:
        return len(self.views)

    def pin_memory(self) -> Batch:
        """Called by the DataLoader: page-locked copies, which travel to the GPU while it computes."""
        pinned: dict[str, Any] = {
            name: value.pin_memory() for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **pinned)


@dataclass(frozen=True)
class Replayed:
    """The stored epoch whose views are made again: of the store at `location`, whose views have `run_seed`.

    `missing` are the shards that have no answers in it.
    """

    location: str
    epoch: int
    run_seed: int
    missing: frozenset[int]


@dataclass(frozen=True)
class TrainingViews:
    """One epoch of training views: `stored` ones, or fresh ones on labels whose seeds follow from `seed`.

    `seed` also decides the order. `first` views of the epoch were taken before. Of a broken image or an answer
    that is missing, `broken` and `missing` say what becomes.
    """

    index: ShardIndex
    augment: Augment
    size: int
    batch_size: int
    epoch: int
    seed: int
    stored: Replayed | None = None
    missing: Missing = "error"
    broken: Literal["error", "skip"] = "error"
    rank: int = 0
    world: int = 1
    first: int = 0

    @property
    def order(self) -> EpochOrder:
        """The sequence that the epoch takes its views from."""
        left_out = self.stored.missing if self.stored and self.missing == "skip" else frozenset[int]()
        counts = tuple(0 if shard in left_out else n for shard, n in enumerate(self.index.counts))
        return EpochOrder(counts, self.seed, self.epoch)

    @property
    def steps(self) -> int:
        """How many batches each rank reads."""
        return (self.order.total - self.first) // (self.batch_size * self.world)

    @property
    def left_out(self) -> int:
        """How many views no rank reads, because they fill no batch on all of them or their shard has no answers."""
        return sum(self.index.counts) - self.first - self.steps * self.batch_size * self.world

    def read(self, worker: int, workers: int) -> Iterator[Batch]:
        """The batches of one worker of this rank."""
        source = _Source(self)
        sequence = EpochSequence(self.order, source.partners)
        for step in range(worker, self.steps, workers):
            position = self.first + (step * self.world + self.rank) * self.batch_size
            yield source.batch(sequence.take(position, self.batch_size))


class _Source:
    """What a worker keeps while it reads an epoch: connections, and what is known of the shards of a window."""

    def __init__(self, views: TrainingViews) -> None:
        self._views = views
        # Opened here, in the worker: connections must not be carried over from another process.
        self._store = LogitStore.open(views.stored.location) if views.stored else None
        # A batch may begin in one window and end in the next.
        together = 2 * max(len(shards) for _, shards in views.order.windows())
        self._shard = lru_cache(together)(views.index.shard)
        self._rows = lru_cache(together)(self._read_rows)
        self._seeds = lru_cache(together)(self._seeds_of)
        self.partners = lru_cache(together)(lambda shard: partners(self._seeds(shard), views.augment))

    def batch(self, places: NDArray[np.intp]) -> Batch:
        """The batch of these views, [B, 2] shard and slot."""
        draft = _Draft(len(places), self._views, self._store.spec.top_k if self._store else 0)
        for shard in np.unique(places[:, 0]):
            here = np.flatnonzero(places[:, 0] == shard)
            self._fill(draft, int(shard), here, places[here, 1])
        return draft.batch()

    def _fill(self, draft: _Draft, number: int, here: NDArray[np.intp], slots: NDArray[np.intp]) -> None:
        """Make the views of some slots of a shard, for the places `here` of a batch."""
        views, shard = self._views, self._shard(number)
        rows, seeds, partner = self._rows(number), self._seeds(number), self.partners(number)
        answered = rows.valid[slots] if rows else np.zeros(len(slots), bool)
        if views.stored and views.missing == "skip":
            here, slots, answered = here[answered], slots[answered], answered[answered]
        made = make_views(shard, slots.tolist(), seeds, views.augment, views.size, partner)
        if views.broken == "error":
            made.whole()
        for place, pixels in zip(here, made.pixels.values(), strict=True):
            if not isinstance(pixels, BrokenImage):
                draft.views[place] = pixels
                draft.kept[place] = True
        kept = draft.kept[here]
        if rows:
            draft.answer(here[kept & answered], rows, slots[kept & answered])
        unanswered = np.flatnonzero(kept & ~answered)
        if views.stored and views.missing == "error" and len(unanswered):
            slot = int(slots[unanswered[0]])
            raise UserError(
                f"the store {views.stored.location} has no answer for {made.samples[slot].key!r} (slot {slot} of "
                f"{shard.path}, stored epoch {views.stored.epoch}); set the stage's missing=skip to leave such views "
                f"out, or missing=label to train on their labels"
            )
        draft.labelled += len(unanswered) if views.stored else 0
        for i in unanswered:
            draft.label(int(here[i]), *made.label(int(slots[i]), int(partner[slots[i]]), seeds, views.augment))

    def _read_rows(self, shard: int) -> Rows | None:
        stored = self._views.stored
        if self._store is None or stored is None or shard in stored.missing:
            return None
        return self._store.read(stored.epoch, shard)

    def _seeds_of(self, shard: int) -> NDArray[np.uint32]:
        if (rows := self._rows(shard)) is not None:
            return rows.seed
        stored, index = self._views.stored, self._shard(shard)
        run_seed, epoch = (stored.run_seed, stored.epoch) if stored else (self._views.seed, self._views.epoch)
        return view_seeds(run_seed, index.name, epoch, index.samples)


class _Draft:
    """A batch under way."""

    def __init__(self, count: int, views: TrainingViews, top_k: int) -> None:
        # A label stage has the label, and the partner's where views are mixed.
        entries = max(top_k, 1 + views.augment.mixes)
        self.views = np.empty((count, views.size, views.size, 3), np.uint8)
        self.kept = np.zeros(count, bool)
        self.labelled = 0
        self._class_id = np.zeros((count, entries), np.int64)
        self._probability = np.zeros((count, entries), np.float32)
        self._residual = np.zeros(count, np.float32)

    def answer(self, here: NDArray[np.intp], rows: Rows, slots: NDArray[np.intp]) -> None:
        """What the teacher said of these views."""
        entries = rows.class_id.shape[1]
        self._class_id[here, :entries] = rows.class_id[slots]
        self._probability[here, :entries] = rows.probability[slots]
        self._residual[here] = rows.residual[slots]

    def label(self, here: int, classes: list[int], shares: list[float]) -> None:
        """A view's own label, and that of the one it is mixed with."""
        self._class_id[here] = classes[0]
        self._class_id[here, : len(classes)] = classes
        self._probability[here, : len(classes)] = shares

    def batch(self) -> Batch:
        whole = self.kept.all()
        views, class_id, probability, residual = (
            torch.from_numpy(array if whole else array[self.kept])
            for array in (self.views, self._class_id, self._probability, self._residual)
        )
        return Batch(views, class_id, probability, residual, int((~self.kept).sum()), self.labelled)
