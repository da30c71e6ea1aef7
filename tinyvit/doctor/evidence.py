"""How well predictions fit classes, and when a difference is more than luck."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Standard deviations. With the dozens of comparisons that are made, chance reaches 4 once in a thousand examinations.
SURE = 4.0
# Draws of what chance would give.
SHUFFLES = 200


def surely_more(wins: int, losses: int) -> bool:
    """Whether so many wins against so many losses are more than even odds give (sign test; ties count for neither)."""
    return wins - losses > SURE * float(np.sqrt(wins + losses))


def chance(classes: NDArray[np.int64], predictions: NDArray[np.int64]) -> tuple[float, float]:
    """Share of predictions that are right when classes [N] are shuffled among the images: mean, and a high bound of it.

    The bound is never less than two images above the mean.
    """
    rng = np.random.default_rng(0)
    shares = np.array([(rng.permutation(classes) == predictions).mean() for _ in range(SHUFFLES)])
    spread = max(SURE * shares.std(), 2 / len(predictions))
    return float(shares.mean()), float(shares.mean() + spread)


def losses(logits: Tensor, classes: NDArray[np.int64]) -> NDArray[np.float32]:
    """Cross entropy [N] in nats of logits [N, C]."""
    found = torch.nn.functional.cross_entropy(logits, torch.from_numpy(classes), reduction="none")
    # A prediction that is not finite fits nothing.
    return torch.nan_to_num(found, nan=1e6, posinf=1e6).numpy()


def right(logits: Tensor, classes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the best of logits [N, C] is the class [N]."""
    best: NDArray[np.int64] = logits.argmax(dim=1).numpy()
    found: NDArray[np.bool_] = best == classes
    return found
