"""What the labels of images mean to a network, and which classes it chooses from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tinyvit.errors import UserError


@dataclass(frozen=True)
class Matching:
    """What labels mean to a network: `numbers` has the place of each label's class among those that it chooses from, -1
    where there is none, and is None where labels are these places. `chosen` are the numbers of the classes that it
    chooses from; None: all of its.
    """

    numbers: Tensor | None
    chosen: Tensor | None

    @classmethod
    def of(cls, numbers: Sequence[int] | None, restrict: bool, device: torch.device) -> Matching:
        """From the network's class of each label; with `restrict` it chooses among these only."""
        if numbers is None:
            return cls(None, None)
        found = torch.tensor(numbers, device=device)
        if not restrict:
            return cls(found, None)
        known = found >= 0
        return cls(torch.where(known, known.cumsum(0) - 1, -1), found[known])

    @property
    def labels(self) -> int | None:
        """How many labels there are; None where they are the network's classes."""
        return None if self.numbers is None else len(self.numbers)

    @property
    def unknown_classes(self) -> int:
        """How many of the data's classes the network does not have."""
        return 0 if self.numbers is None else int((self.numbers < 0).sum())

    def told_apart(self, logits: Tensor) -> Tensor:
        """The columns of logits [N, C] that it chooses from."""
        return logits if self.chosen is None else logits[:, self.chosen]

    def target(self, labels: Tensor, outputs: int) -> Tensor:
        """Labels [N, L], -1 where there is none, as places among them. UserError for a label that means nothing."""
        count = self.labels or outputs
        if (most := int(labels.max())) >= count:
            if self.labels is None:
                raise UserError(
                    f"the data has labels up to {most}, the model has {count} classes; give data with the classes that "
                    f"it was trained for"
                )
            raise UserError(
                f"the data has labels up to {most}, the list of its classes names {count}; mend the list (classes.txt, "
                f"--classes)"
            )
        return labels if self.numbers is None else torch.where(labels < 0, -1, self.numbers[labels.clamp(min=0)])
