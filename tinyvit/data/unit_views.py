"""Stage 1's stream: the views of whole units. Each image is read and decoded once and augmented E times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from logitstore import Unit
from tinyvit.config import Augment, Decode
from tinyvit.data.index import ShardIndex
from tinyvit.data.render_views import DecodedSamples
from tinyvit.views import PAIRING_BLOCK, partners, probe_slots, view_digest, view_seeds
from tinyvit.views.images import BrokenImage


@dataclass(frozen=True)
class UnitPart:
    """Slots of a unit whose images are decoded together, and the unit's epochs."""

    unit: Unit
    epochs: range
    slots: range


@dataclass(frozen=True)
class ViewChunk:
    """Views of n consecutive slots in e epochs of one unit.

    epochs [e], counted within the unit; slots [n]; views [e, n, H, W, 3] uint8; decoded [e, n] bool;
    digest [e, n] uint32, 0 where it is no probe.
    """

    unit: Unit
    epochs: Tensor
    slots: Tensor
    views: Tensor
    decoded: Tensor
    digest: Tensor


@dataclass(frozen=True)
class UnitViews:
    """The views of units, about `batch_size` at a time.

    What stands together, and with it every last bit of the teacher's logits, does not depend on how many workers
    there are, nor on what is left to do.
    """

    index: ShardIndex
    augment: Augment
    decode: Decode
    size: int
    run_seed: int
    batch_size: int
    probes: int
    skip_broken: bool

    def parts(self, unit: Unit, epochs: range) -> Iterator[UnitPart]:
        """The parts of a unit."""
        samples = self.index.counts[unit.shard]
        # Partners are of one block: their images are decoded together.
        slots = PAIRING_BLOCK if self.augment.mixes else max(1, self.batch_size // len(epochs))
        for first in range(0, samples, slots):
            yield UnitPart(unit, epochs, range(first, min(first + slots, samples)))

    def chunks(self, part: UnitPart) -> list[ViewChunk]:
        """The views of a part."""
        images = DecodedSamples(self.index.shard(part.unit.shard), part.slots, self.decode)
        epochs = len(part.epochs)
        together = max(1, self.batch_size // PAIRING_BLOCK) if self.augment.mixes else epochs
        return [
            self._chunk(part, images, range(first, min(first + together, epochs)))
            for first in range(0, epochs, together)
        ]

    def _chunk(self, part: UnitPart, images: DecodedSamples, numbers: range) -> ViewChunk:
        shard, slots = images.shard, list(images.samples)
        probes = set(probe_slots(shard.samples, self.probes))
        shape = (len(numbers), len(slots))
        views = np.zeros((*shape, self.size, self.size, 3), np.uint8)
        digest = np.zeros(shape, np.int64)
        decoded = np.zeros(shape, bool)
        for e, number in enumerate(numbers):
            seeds = view_seeds(self.run_seed, shard.name, part.epochs[number], shard.samples)
            made = images.views(slots, seeds, partners(seeds, self.augment), self.augment, self.size)
            if not self.skip_broken:
                made.whole()
            for i, (slot, pixels) in enumerate(made.pixels.items()):
                if isinstance(pixels, BrokenImage):
                    continue
                decoded[e, i] = True
                views[e, i] = pixels
                if slot in probes:
                    digest[e, i] = view_digest(pixels)
        return ViewChunk(
            part.unit,
            torch.tensor(numbers),
            torch.tensor(slots),
            torch.from_numpy(views),
            torch.from_numpy(decoded),
            torch.from_numpy(digest),
        )
