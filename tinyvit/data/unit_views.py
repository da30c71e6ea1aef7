"""Stage 1's stream: the views of whole units. Each image is read and decoded once and augmented E times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from storage import Unit
from tinyvit.config import Augment
from tinyvit.data.images import BrokenImage, decode
from tinyvit.data.join import IndexedShard, checked_samples
from tinyvit.data.shards import Sample
from tinyvit.errors import UserError
from tinyvit.replay import probe_slots, view, view_digest, view_seeds


@dataclass(frozen=True)
class UnitPlan:
    """One unit to do: its shard and its epochs."""

    unit: Unit
    shard: IndexedShard
    epochs: range


@dataclass(frozen=True)
class ViewChunk:
    """Views of n consecutive slots in E epochs of one unit.

    slots [n]; views [E, n, H, W, 3] uint8; decoded [n] bool; digest [E, n] uint32, 0 where it is no probe.
    """

    unit: Unit
    slots: Tensor
    views: Tensor
    decoded: Tensor
    digest: Tensor


@dataclass(frozen=True)
class UnitViews:
    """The views of some units, in chunks of `chunk` slots.

    Chunks are dealt to the workers in turn, so that what stands in a batch, and with it every last bit of the
    teacher's answer, does not depend on how many workers there are.
    """

    plans: tuple[UnitPlan, ...]
    augment: Augment
    size: int
    run_seed: int
    chunk: int
    probes: int
    skip_broken: bool

    def read(self, worker: int, workers: int) -> Iterator[ViewChunk]:
        """The chunks of one worker, unit after unit."""
        for plan in self.plans:
            chunk: list[Sample] = []
            for sample in checked_samples(plan.shard):
                if (sample.slot // self.chunk) % workers != worker:
                    continue
                chunk.append(sample)
                if len(chunk) == self.chunk:
                    yield self._views(plan, chunk)
                    chunk = []
            if chunk:
                yield self._views(plan, chunk)

    def _views(self, plan: UnitPlan, samples: list[Sample]) -> ViewChunk:
        name, count = plan.shard.path.name, plan.shard.samples
        seeds = [view_seeds(self.run_seed, name, epoch, count) for epoch in plan.epochs]
        probes = set(probe_slots(count, self.probes))
        shape = (len(plan.epochs), len(samples))
        views = np.zeros((*shape, self.size, self.size, 3), np.uint8)
        digest = np.zeros(shape, np.int64)
        decoded = np.zeros(len(samples), bool)
        for i, sample in enumerate(samples):
            try:
                image = decode(sample.image)
            except BrokenImage as fault:
                if self.skip_broken:
                    continue
                raise UserError(
                    f"{plan.shard.path}: the image of {sample.key!r} cannot be decoded ({fault}); "
                    f"mend the shard, or leave such images out with label.on_broken=skip"
                ) from None
            decoded[i] = True
            for e in range(len(plan.epochs)):
                views[e, i] = view(image, int(seeds[e][sample.slot]), self.augment, self.size)
                if sample.slot in probes:
                    digest[e, i] = view_digest(views[e, i])
        return ViewChunk(
            plan.unit,
            torch.tensor([sample.slot for sample in samples]),
            torch.from_numpy(views),
            torch.from_numpy(decoded),
            torch.from_numpy(digest),
        )
