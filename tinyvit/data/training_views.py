"""Stage 2's stream: one epoch of training batches.

Shards in the order of the epoch's seed -> samples in tar order, each checked against the index -> the stored
row of the same slot -> shuffle buffer of *encoded* images -> decode and make the view -> batch. Shards are
dealt to the workers; units are read in tar order, so the join needs no dictionary of keys and no random access.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from webdataset import filters
from webdataset.pipeline import DataPipeline

from storage import LogitStore, Rows
from tinyvit.config import Augment
from tinyvit.data.images import BrokenImage, decode
from tinyvit.data.join import IndexedShard, checked_samples
from tinyvit.data.shards import Sample
from tinyvit.errors import UserError
from tinyvit.replay import view, view_seeds

# Encoded images held back for shuffling; at 110 kB a picture (ImageNet's mean) 2,000 are 220 MB a worker.
SHUFFLE_BUFFER = 2000


@dataclass(frozen=True)
class Batch:
    """B training views.

    views [B, H, W, 3] uint8; labels [B] int64, -1 where a sample has none; for teacher stages also the stored
    rows: class_id [B, K] int64, probability [B, K] float32, residual [B] float32. `skipped` counts the views
    since the last batch that have no answer.
    """

    views: Tensor
    labels: Tensor
    class_id: Tensor | None
    probability: Tensor | None
    residual: Tensor | None
    skipped: int

    def pin_memory(self) -> Batch:
        """Called by the DataLoader: page-locked copies, which travel to the GPU while it computes."""
        pinned: dict[str, Any] = {
            name: value.pin_memory() for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **pinned)


@dataclass(frozen=True)
class TrainingViews:
    """One epoch of training views: of the stored views when `store` is given, else of fresh ones.

    `store_epoch` is the stored epoch that is replayed; `run_seed` the seed of the views; `order_seed` the seed
    of the order.
    """

    shards: tuple[IndexedShard, ...]
    augment: Augment
    size: int
    batch_size: int
    epoch: int
    run_seed: int
    order_seed: int
    store: str | None = None
    store_epoch: int = 0
    skip_broken: bool = False

    def batches(self, workers: int) -> int:
        """How many whole batches the epoch has when no view is skipped."""
        return sum(count // self.batch_size for count in self._shares(workers))

    def left_out(self, workers: int) -> int:
        """How many images the epoch leaves out, because a worker's share is no multiple of the batch."""
        return sum(count % self.batch_size for count in self._shares(workers))

    def read(self, worker: int, workers: int) -> Iterator[Batch]:
        """The batches of one worker."""
        rng = random.Random(f"{self.order_seed}/{self.epoch}/{worker}")
        pipeline = DataPipeline(
            partial(iter, self._order()[worker :: max(1, workers)]),
            self._samples,
            filters.shuffle(SHUFFLE_BUFFER, initial=SHUFFLE_BUFFER, rng=rng),
            self._views,
            filters.batched(self.batch_size, collation_fn=_collate, partial=False),
        )
        yield from pipeline

    def _order(self) -> list[IndexedShard]:
        return random.Random(f"{self.order_seed}/{self.epoch}").sample(self.shards, len(self.shards))

    def _shares(self, workers: int) -> list[int]:
        parts = max(1, workers)
        return [sum(shard.samples for shard in self._order()[w::parts]) for w in range(parts)]

    def _samples(self, shards: Iterator[IndexedShard]) -> Iterator[_Joined]:
        # Opened here, in the worker: connections must not be carried over from another process.
        store = LogitStore.open(self.store) if self.store else None
        for shard in shards:
            if store:
                rows = store.read(self.store_epoch, shard.number)
                seeds, valid = rows.seed, rows.valid
            else:
                rows = None
                seeds = view_seeds(self.run_seed, shard.path.name, self.epoch, shard.samples)
                valid = np.ones(shard.samples, bool)
            for sample in checked_samples(shard):
                yield _Joined(shard, sample, int(seeds[sample.slot]), bool(valid[sample.slot]), rows)

    def _views(self, joined: Iterator[_Joined]) -> Iterator[_View]:
        skipped = 0
        for item in joined:
            if not item.valid:
                skipped += 1
                continue
            try:
                image = decode(item.sample.image)
            except BrokenImage as fault:
                if self.skip_broken:
                    skipped += 1
                    continue
                raise UserError(
                    f"{item.shard.path}: the image of {item.sample.key!r} cannot be decoded ({fault}); "
                    f"mend the shard, or leave such images out with label.on_broken=skip"
                ) from None
            yield _View(view(image, item.seed, self.augment, self.size), item, skipped)
            skipped = 0


@dataclass(frozen=True)
class _Joined:
    """A sample with its seed and, for teacher stages, the rows of its shard."""

    shard: IndexedShard
    sample: Sample
    seed: int
    valid: bool
    rows: Rows | None


@dataclass(frozen=True)
class _View:
    pixels: NDArray[np.uint8]
    joined: _Joined
    skipped: int


def _collate(items: list[_View]) -> Batch:
    slots = [(item.joined.rows, item.joined.sample.slot) for item in items]
    labels = [-1 if item.joined.sample.label is None else item.joined.sample.label for item in items]
    part = partial(_stack, slots)
    return Batch(
        views=torch.from_numpy(np.stack([item.pixels for item in items])),
        labels=torch.tensor(labels),
        class_id=part("class_id", torch.int64),
        probability=part("probability", torch.float32),
        residual=part("residual", torch.float32),
        skipped=sum(item.skipped for item in items),
    )


def _stack(slots: list[tuple[Rows | None, int]], name: str, dtype: torch.dtype) -> Tensor | None:
    rows = [getattr(rows, name)[slot] for rows, slot in slots if rows is not None]
    return torch.from_numpy(np.stack(rows)).to(dtype) if rows else None
