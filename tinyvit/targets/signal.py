"""What a teacher says about a batch of views: one type, whether the teacher is live or its logits are stored.

Shapes: B views, at most K kept classes, C classes in all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tinyvit.errors import UserError


@dataclass(frozen=True)
class TeacherSignal:
    """The classes that were kept of each row and what lies outside them.

    class_id    [B, K] int64, the best class first, the others in any order
    probability [B, K] float32; 0 where a row has fewer than K classes (the id there repeats a kept one)
    residual    [B] float32, the mass outside; with the probabilities it sums to one
    num_classes C
    """

    class_id: Tensor
    probability: Tensor
    residual: Tensor
    num_classes: int

    @classmethod
    def from_logits(cls, logits: Tensor, top_k: int) -> TeacherSignal:
        """The K best classes of logits [B, C], fewer where the others are impossible. Needs 1 <= top_k <= C.

        A logit of minus infinity (a masked class) is probability 0. The residual is the mass of the other logits, never
        one minus a sum: that difference loses all its digits where the teacher is sure.
        """
        log_p = logits.float().log_softmax(dim=1)
        best, class_id = log_p.topk(top_k, dim=1)
        outside = log_p.scatter(1, class_id, float("-inf")).logsumexp(dim=1)
        # A class that is possible has some probability, even where float32 has none left.
        tiny = torch.finfo(torch.float32).tiny
        kept = best.exp().clamp_min(tiny).masked_fill(best.isneginf(), 0.0)
        return _with_absent(class_id, kept, outside.exp().clamp(max=1.0), logits.shape[1])

    @classmethod
    def from_logits_by_mass(cls, logits: Tensor, top_k: int, mass: float) -> TeacherSignal:
        """The fewest best classes that hold this probability mass, at most K."""
        best = cls.from_logits(logits, top_k)
        before = best.probability.cumsum(dim=1) - best.probability
        dropped = before >= mass
        dropped[:, 0] = False
        residual = best.residual + (best.probability * dropped).sum(dim=1)
        kept = best.probability.masked_fill(dropped, 0.0)
        return _with_absent(best.class_id, kept, residual.clamp(max=1.0), best.num_classes)

    @classmethod
    def sampled_from_logits(cls, logits: Tensor, draws: int, seeds: Tensor) -> TeacherSignal:
        """Classes that random draws from the probabilities hit, each with its share of the draws; [B, draws] entries.

        Unbiased: the expected share of a class is its probability, where the best K leave a bias towards sure
        rows (random-sampling knowledge distillation, arXiv 2503.16870). The draws of a row are systematic,
        evenly spaced from one random start, so that a share is within 1 / draws of its expectation; `seeds` [B]
        decide the starts. Needs draws <= C.
        """
        p = logits.double().softmax(dim=1)
        starts = _uniform(seeds).to(p.device)
        points = (torch.arange(draws, device=p.device) + starts[:, None]) / draws
        # A point that rounding puts past the end hits the last class that can be hit.
        last = p.shape[1] - 1 - (p > 0).flip(1).int().argmax(dim=1, keepdim=True)
        hit = torch.minimum(torch.searchsorted(p.cumsum(dim=1), points, right=True), last)
        counts = torch.zeros_like(p, dtype=torch.float32).scatter_add_(
            1, hit, torch.ones_like(hit, dtype=torch.float32)
        )
        count, class_id = counts.topk(draws, dim=1)
        return _with_absent(class_id, count / draws, torch.zeros(len(p), device=p.device), p.shape[1])

    @classmethod
    def selected(cls, logits: Tensor, selection: str, top_k: int, mass: float | None, seeds: Tensor) -> TeacherSignal:
        """What a store keeps of logits [B, C], by the selection that its specification names."""
        if selection == "sampled":
            return cls.sampled_from_logits(logits, top_k, seeds)
        if mass is not None:
            return cls.from_logits_by_mass(logits, top_k, mass)
        return cls.from_logits(logits, top_k)

    @property
    def present(self) -> Tensor:
        """[B, K] bool: entries that hold a class."""
        return self.probability > 0

    def truncate(self, top_k: int) -> TeacherSignal:
        """The same signal with its K best classes only; the mass of the others joins the residual."""
        if top_k >= self.class_id.shape[1]:
            return self
        kept, place = self.probability.topk(top_k, dim=1)
        residual = self.residual + self.probability.scatter(1, place, 0.0).sum(dim=1)
        return _with_absent(self.class_id.gather(1, place), kept, residual.clamp(max=1.0), self.num_classes)

    def to(self, device: torch.device) -> TeacherSignal:
        """The same signal on another device."""
        return self._each(lambda values: values.to(device, non_blocking=True))

    def pin_memory(self) -> TeacherSignal:
        """The same signal in page-locked memory."""
        return self._each(lambda values: values.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> TeacherSignal:
        return TeacherSignal(change(self.class_id), change(self.probability), change(self.residual), self.num_classes)


def valid_logits(logits: Tensor) -> Tensor:
    """[B] bool: rows of logits [B, C] that can be learned: no NaN, nothing infinite but what is impossible, and not all
    of it.
    """
    return logits.amax(dim=1).isfinite()


def refuse_probabilities(logits: Tensor, name: str) -> None:
    """UserError where what a network says of some views [N, C] is probabilities: their softmax would be nearly even."""
    values = logits.float()
    if values.shape[1] > 1 and bool((values >= 0).all()) and bool(((values.sum(dim=1) - 1).abs() < 1e-2).all()):
        raise UserError(
            f"{name} gives probabilities where logits are wanted; leave its last softmax out, or take the "
            f"logarithm of what it says"
        )


def _with_absent(class_id: Tensor, probability: Tensor, residual: Tensor, num_classes: int) -> TeacherSignal:
    """Entries of probability 0 name the first class, so that they add nothing to the set of those that are there."""
    named = torch.where(probability > 0, class_id, class_id[:, :1])
    return TeacherSignal(named, probability, residual, num_classes)


def _uniform(seeds: Tensor) -> Tensor:
    """[B] float64 in [0, 1) from integer seeds, which may be consecutive (the finaliser of SplitMix64)."""
    mixed = seeds.cpu().numpy().astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return torch.from_numpy((mixed >> np.uint64(11)) * 2.0**-53)
