"""Few-shot episodes: N classes, K labelled images of each, and others to be told apart by them alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyvit.errors import UserError
from tinyvit.transfer.accuracy import Accuracy
from tinyvit.transfer.features import Split
from tinyvit.transfer.heads import directions

WAYS, QUERIES, EPISODES = 5, 15, 600


@dataclass(frozen=True)
class Episode:
    """Rows of a split: supports [N, K] and queries [N, Q], the n-th line all of the n-th class of the episode."""

    support: NDArray[np.int64]
    query: NDArray[np.int64]


def episodes(labels: NDArray[np.int32], shots: int, seed: int, count: int = EPISODES) -> Iterator[Episode]:
    """So many episodes of 5 classes and 15 queries each, drawn by the seed: the same for every network.

    Classes with too few images are left out. UserError where fewer than five remain.
    """
    needed = shots + QUERIES
    rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    large = [found for found in rows if len(found) >= needed]
    if len(large) < WAYS:
        raise UserError(
            f"{len(large)} classes have the {needed} images that an episode of {shots} shots needs; "
            f"give data with {WAYS} such classes"
        )
    rng = np.random.default_rng([seed, shots])
    for _ in range(count):
        classes = rng.choice(len(large), WAYS, replace=False)
        drawn = np.stack([rng.choice(large[number], needed, replace=False) for number in classes])
        yield Episode(drawn[:, :shots], drawn[:, shots:])


def few_shot(split: Split, shots: int, seed: int) -> dict[str, Any]:
    """Mean accuracies over the episodes: of the class whose mean direction is nearest (`prototype`, Snell et al. 2017),
    and of logistic regression on the directions (`linear`).
    """
    from sklearn.linear_model import LogisticRegression

    unit = directions(split.features)
    wanted = np.repeat(np.arange(WAYS), QUERIES)
    by: dict[str, list[float]] = {"prototype": [], "linear": []}
    for episode in episodes(split.labels, shots, seed):
        support, query = unit[episode.support], unit[episode.query].reshape(WAYS * QUERIES, -1)
        prototypes = support.mean(axis=1)
        distance = ((query[:, None] - prototypes[None]) ** 2).sum(axis=2)
        by["prototype"].append(float((distance.argmin(axis=1) == wanted).mean()))
        head = LogisticRegression().fit(support.reshape(WAYS * shots, -1), np.repeat(np.arange(WAYS), shots))
        by["linear"].append(float((head.predict(query) == wanted).mean()))
    return {name: Accuracy.averaged(shares, "episodes") for name, shares in by.items()}
