"""What a teacher says about a batch of views: one type, whether the teacher is live or its answer is stored.

Shapes: B views, K kept classes, C classes in all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TeacherSignal:
    """The K most probable classes of each view and what lies outside them.

    class_id     [B, K] int64, best first
    log_ratio    [B, K] float32, log(p_k / p_1)
    log_residual [B] float32, log of the mass outside the K classes; -inf when there is none
    num_classes  C
    """

    class_id: Tensor
    log_ratio: Tensor
    log_residual: Tensor
    num_classes: int

    @classmethod
    def from_logits(cls, logits: Tensor, top_k: int) -> TeacherSignal:
        """The K best classes of logits [B, C]. Needs 1 <= top_k <= C.

        The residual is the log-sum-exp of the other logits, never one minus a sum: that difference loses all
        its digits where the teacher is sure.
        """
        logits = logits.float()
        best, class_id = logits.topk(top_k, dim=1)
        log_mass = logits.logsumexp(dim=1)
        outside = logits.scatter(1, class_id, float("-inf")).logsumexp(dim=1) - log_mass
        # Rounding may leave a residual a hair above zero nats when all mass is outside.
        return cls(class_id, best - best[:, :1], outside.clamp(max=0.0), logits.shape[1])

    @property
    def probability(self) -> Tensor:
        """[B, K] float32: kept probabilities, which with exp(log_residual) sum to one."""
        kept = -torch.expm1(self.log_residual)
        return self.log_ratio.softmax(dim=1) * kept[:, None]

    def truncate(self, top_k: int) -> TeacherSignal:
        """The same answer with fewer classes; the mass of the others joins the residual."""
        if top_k >= self.class_id.shape[1]:
            return self
        dropped = self.probability[:, top_k:].log().logsumexp(dim=1)
        return TeacherSignal(
            self.class_id[:, :top_k],
            self.log_ratio[:, :top_k],
            torch.logaddexp(self.log_residual, dropped).clamp(max=0.0),
            self.num_classes,
        )

    def to(self, device: torch.device) -> TeacherSignal:
        """The same answer on another device."""
        return TeacherSignal(
            self.class_id.to(device, non_blocking=True),
            self.log_ratio.to(device, non_blocking=True),
            self.log_residual.to(device, non_blocking=True),
            self.num_classes,
        )
