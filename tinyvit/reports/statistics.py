"""What rows of a store amount to: how sure the teacher is, what was kept, and where it agrees with the labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyvit.reports.sampled_rows import SampledRows

# Of the confidence, as in tinyvit/evaluation (Guo et al. 2017).
BINS = 15


def entropy(sampled: SampledRows) -> NDArray[np.float64]:
    """[N] nats, with the residual spread evenly over the classes that were not kept: at most this much."""
    p = sampled.probability
    inside = -(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=1)
    outside = sampled.residual * np.log(np.where(sampled.spread > 0, sampled.spread, 1.0))
    return np.asarray(inside - outside)


def kept_mass(sampled: SampledRows) -> NDArray[np.float64]:
    """[N, K] the mass of the best one, two, ... K classes."""
    return np.asarray(sampled.probability.cumsum(axis=1))


def divergence_of(sampled: SampledRows, top_k: int) -> NDArray[np.float64]:
    """[N] nats: KL divergence of the stored probabilities from what the `top_k` best classes alone would say, the mass
    outside spread evenly in both (the paper's section 3.1).
    """
    p, kept = sampled.probability, sampled.probability[:, :top_k]
    outside = sampled.num_classes - np.minimum((p > 0).sum(axis=1), top_k)
    lost = 1.0 - kept.sum(axis=1)
    even = np.where((outside > 0) & (lost > 0), lost / np.maximum(outside, 1), 1.0)
    dropped = p[:, top_k:]
    ratio = np.where(dropped > 0, dropped, 1.0) / np.where(dropped > 0, even[:, None], 1.0)
    inside = (dropped * np.log(ratio)).sum(axis=1)
    spread = sampled.spread
    rest = sampled.residual * np.log(np.where(spread > 0, spread / even, 1.0))
    return np.asarray(np.maximum(inside + rest, 0.0))


def smaller_ks(top_k: int) -> list[int]:
    """The numbers of classes that a store of K might have kept instead: 1, 2, 5, 10, 20, ... K."""
    steps = [digit * 10**power for power in range(7) for digit in (1, 2, 5)]
    return [k for k in steps if k < top_k] + [top_k]


@dataclass(frozen=True)
class Agreement:
    """The teacher's best classes against the labels, in percent of `rows`; calibration_error as in evaluation."""

    rows: int
    top1: float
    top5: float
    calibration_error: float


def agreement(sampled: SampledRows) -> Agreement | None:
    """Of the rows with a label; None where there are none."""
    known = sampled.labelled
    if not len(known):
        return None
    right = known.best == known.label
    reliable = reliability(known)
    return Agreement(
        rows=len(known),
        top1=100 * float(right.mean()),
        top5=100 * float(_among_best(known, 5).mean()),
        calibration_error=100 * sum(b.rows * abs(b.confidence - b.accuracy) for b in reliable) / len(known),
    )


@dataclass(frozen=True)
class ReliabilityBin:
    """Rows of about the same confidence: its mean, and the share of them in which the teacher agrees with the label."""

    rows: int
    confidence: float
    accuracy: float


def reliability(sampled: SampledRows) -> list[ReliabilityBin]:
    """The bins that have rows, of those with a label."""
    known = sampled.labelled
    place = np.minimum((known.confidence * BINS).astype(int), BINS - 1)
    right = known.best == known.label
    return [
        ReliabilityBin(int(inside.sum()), float(known.confidence[inside].mean()), float(right[inside].mean()))
        for inside in (place == number for number in range(BINS))
        if inside.any()
    ]


@dataclass(frozen=True)
class ClassAgreement:
    """A class by its label: rows, and the share of them that the teacher gives it in its best and its best five."""

    class_id: int
    rows: int
    top1: float
    top5: float


def by_class(sampled: SampledRows) -> list[ClassAgreement]:
    """Every class that occurs as a label, the one with the least agreement first."""
    known = sampled.labelled
    first, among = known.best == known.label, _among_best(known, 5)
    found = []
    for class_id in np.unique(known.label).tolist():
        mine = known.label == class_id
        found.append(
            ClassAgreement(class_id, int(mine.sum()), 100 * float(first[mine].mean()), 100 * float(among[mine].mean()))
        )
    return sorted(found, key=lambda entry: (entry.top1, -entry.rows))


def confusions(sampled: SampledRows, most: int) -> list[tuple[int, int, int]]:
    """(label, the teacher's best class, rows) of the pairs that differ, the most frequent first."""
    known = sampled.labelled
    wrong = known[known.best != known.label]
    pairs, counts = np.unique(np.stack([wrong.label, wrong.best], axis=1), axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most]
    return [(*pairs[number].tolist(), int(counts[number])) for number in order]


def hardest(sampled: SampledRows, most: int) -> NDArray[np.intp]:
    """Rows of the highest entropy, one an image."""
    return _one_an_image(sampled, np.argsort(-entropy(sampled), kind="stable"), most)


def doubtful_labels(sampled: SampledRows, most: int) -> NDArray[np.intp]:
    """Rows in which the teacher prefers another class than the label by the widest margin, one an image: the most
    likely to be labelled wrong (the normalised margin of confident learning, Northcutt et al. 2021).
    """
    margin = np.where(sampled.label >= 0, sampled.confidence - sampled.of_class(sampled.label), 0.0)
    order = np.argsort(-margin, kind="stable")
    return _one_an_image(sampled, order[margin[order] > 0], most)


def _among_best(known: SampledRows, count: int) -> NDArray[np.bool_]:
    there = known.probability[:, :count] > 0
    return np.asarray(((known.class_id[:, :count] == known.label[:, None]) & there).any(axis=1))


def _one_an_image(sampled: SampledRows, order: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    seen: set[tuple[int, int]] = set()
    chosen = []
    for row in order.tolist():
        image = (int(sampled.shard[row]), int(sampled.slot[row]))
        if image not in seen:
            seen.add(image)
            chosen.append(row)
        if len(chosen) == most:
            break
    return np.array(chosen, np.intp)
