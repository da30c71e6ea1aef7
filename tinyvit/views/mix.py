"""Mixup (Zhang et al., arXiv 1710.09412) and CutMix (Yun et al., arXiv 1905.04899) of pairs of views, by seed.

Partners are views of the same epoch and shard. Who they are and how they are mixed follows from the recorded seeds
alone, so that a student meets the very mixtures that the teacher was asked about. Both views of a pair are mixed
with the same parameters, each with the other (timm's `pair` mode), from two decoded images and not from four.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyvit.config import Augment

# Slots among which partners are drawn: enough for another partner in nearly every epoch, few enough that stage 1
# can keep their decoded images.
PAIRING_BLOCK = 64

# Mixup's weights are multiples of 1 / 256, so that mixing is exact in integers.
WEIGHT_STEPS = 256


@dataclass(frozen=True)
class Mix:
    """How a view is mixed with its partner's.

    share   of the view's own pixels in the mixture: what its own label counts
    box     (top, bottom, left, right), shares of the side: where the partner is pasted; None: a blend
    """

    share: float
    box: tuple[float, float, float, float] | None

    def apply(self, own: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The mixture of two views [H, W, 3]."""
        if self.box is None:
            weight = np.uint16(round(self.share * WEIGHT_STEPS))
            rest = np.uint16(WEIGHT_STEPS) - weight
            blend: NDArray[np.uint16] = own * weight + other * rest + np.uint16(WEIGHT_STEPS // 2)
            return (blend // np.uint16(WEIGHT_STEPS)).astype(np.uint8)
        top, bottom, left, right = (round(side * len(own)) for side in self.box)
        mixed = own.copy()
        mixed[top:bottom, left:right] = other[top:bottom, left:right]
        return mixed


def partners(seeds: NDArray[np.uint32], augment: Augment) -> NDArray[np.intp]:
    """[S] the slot of each view's partner, given the seeds [S] of an epoch of a shard; its own slot: it has none."""
    partner = np.arange(len(seeds))
    if not augment.mixes:
        return partner
    for first in range(0, len(seeds), PAIRING_BLOCK):
        block = partner[first : first + PAIRING_BLOCK]
        order = block[np.random.default_rng([int(seeds[first]), 1]).permutation(len(block))]
        pairs = order[: len(order) // 2 * 2].reshape(-1, 2)
        partner[pairs] = pairs[:, ::-1]
    return partner


def mix_of(one: int, two: int, augment: Augment) -> Mix | None:
    """How the views of two seeds, in either order, are mixed with each other; None: they stay as they are."""
    rng = np.random.default_rng([min(one, two), max(one, two), 2])
    if rng.random() >= augment.mix_prob:
        return None
    both = augment.mixup_alpha > 0 and augment.cutmix_alpha > 0
    if augment.cutmix_alpha > 0 and (not both or rng.random() < augment.mix_switch_prob):
        top, bottom, left, right = box = _box(rng.beta(augment.cutmix_alpha, augment.cutmix_alpha), augment, rng)
        return Mix(1 - (bottom - top) * (right - left), box)
    return Mix(round(rng.beta(augment.mixup_alpha, augment.mixup_alpha) * WEIGHT_STEPS) / WEIGHT_STEPS, None)


def _box(share: float, augment: Augment, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """timm's rand_bbox and rand_bbox_minmax, in shares of the side: cut off at the edges, or wholly inside."""
    if augment.cutmix_minmax:
        height, width = rng.uniform(*augment.cutmix_minmax, size=2)
        top, left = rng.uniform(0, 1 - height), rng.uniform(0, 1 - width)
        return top, top + height, left, left + width
    half = math.sqrt(1 - share) / 2
    y, x = rng.random(2)
    return max(y - half, 0.0), min(y + half, 1.0), max(x - half, 0.0), min(x + half, 1.0)
