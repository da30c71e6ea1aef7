"""Statistics of sparse rows against the same of dense ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from tinyvit.reports import statistics
from tinyvit.reports.sampled_rows import SampledRows

CLASSES, ROWS = 12, 300


def dense(rng: np.random.Generator) -> NDArray[np.float64]:
    logits = rng.normal(0, 2, (ROWS, CLASSES))
    p = np.exp(logits)
    return np.asarray(p / p.sum(axis=1, keepdims=True))


def kept(p: NDArray[np.float64], top_k: int) -> SampledRows:
    order = np.argsort(-p, axis=1)[:, :top_k]
    best = np.take_along_axis(p, order, axis=1)
    rows = np.arange(len(p))
    return SampledRows(
        CLASSES, len(p), len(p), rows * 0, rows * 0, rows, rows.astype(np.uint32), order, best, 1 - best.sum(axis=1),
        np.random.default_rng(5).integers(0, CLASSES, len(p)),
    )  # fmt: skip


def spread(sampled: SampledRows, top_k: int) -> NDArray[np.float64]:
    """[N, C]: the K best classes, the rest even over all others."""
    full = np.full((len(sampled), CLASSES), np.nan)
    np.put_along_axis(full, sampled.class_id[:, :top_k], sampled.probability[:, :top_k], axis=1)
    rest = 1 - np.nansum(full, axis=1)
    return np.where(np.isnan(full), (rest / (CLASSES - top_k))[:, None] if top_k < CLASSES else 0, full)


@pytest.fixture
def probabilities() -> NDArray[np.float64]:
    return dense(np.random.default_rng(0))


@pytest.mark.parametrize("top_k", [1, 5, CLASSES])
def test_entropy_is_that_of_the_spread_answer(probabilities: NDArray[np.float64], top_k: int) -> None:
    sampled = kept(probabilities, top_k)
    full = spread(sampled, top_k)
    assert statistics.entropy(sampled) == pytest.approx(-(full * np.log(full)).sum(axis=1), abs=1e-9)


@pytest.mark.parametrize(("top_k", "smaller"), [(5, 1), (5, 3), (5, 5), (CLASSES, 4), (CLASSES, CLASSES)])
def test_what_a_smaller_k_loses(probabilities: NDArray[np.float64], top_k: int, smaller: int) -> None:
    sampled = kept(probabilities, top_k)
    full, less = spread(sampled, top_k), spread(sampled, smaller)
    wanted = (full * np.log(full / less)).sum(axis=1)
    assert statistics.divergence_of(sampled, smaller) == pytest.approx(wanted, abs=1e-9)


def test_a_row_with_fewer_classes(probabilities: NDArray[np.float64]) -> None:
    sampled = kept(probabilities, 5)
    sure = replace(sampled, probability=sampled.probability * [1, 0, 0, 0, 0], residual=1 - sampled.confidence)
    few = kept(probabilities, 1)
    assert statistics.entropy(sure) == pytest.approx(statistics.entropy(few))
    assert statistics.divergence_of(sure, 1) == pytest.approx(0, abs=1e-12)
    assert sure.of_class(sampled.class_id[:, 2]) == pytest.approx(few.spread)


def test_smaller_ks_are_round_numbers_and_k_itself() -> None:
    assert statistics.smaller_ks(100) == [1, 2, 5, 10, 20, 50, 100]
    assert statistics.smaller_ks(7) == [1, 2, 5, 7]
    assert statistics.smaller_ks(1) == [1]


def test_agreement_by_class_and_in_bins(probabilities: NDArray[np.float64]) -> None:
    sampled = kept(probabilities, 6)
    label = sampled.label.copy()
    label[:100] = sampled.best[:100]
    label[100:110] = -1
    sampled = replace(sampled, label=label)
    known = label >= 0
    found = statistics.agreement(sampled)
    assert found is not None
    assert found.rows == 290
    assert found.top1 == pytest.approx(100 * (sampled.best == label)[known].mean())
    within = (sampled.class_id[:, :5] == label[:, None]).any(axis=1)
    assert found.top5 == pytest.approx(100 * within[known].mean())
    classes = statistics.by_class(sampled)
    assert sum(entry.rows for entry in classes) == 290
    assert sum(entry.rows * entry.top1 for entry in classes) / 290 == pytest.approx(found.top1)
    assert [entry.top1 for entry in classes] == sorted(entry.top1 for entry in classes)
    bins = statistics.reliability(sampled)
    assert sum(entry.rows for entry in bins) == 290
    assert sum(entry.rows * entry.accuracy for entry in bins) / 290 == pytest.approx(found.top1 / 100)
    pairs = statistics.confusions(sampled, 1000)
    assert sum(rows for _, _, rows in pairs) == int((sampled.best != label)[known].sum())
    assert all(a != b for a, b, _ in pairs)
    assert statistics.agreement(replace(sampled, label=label * 0 - 1)) is None


def test_the_most_doubtful_label_and_the_hardest_view_come_first(probabilities: NDArray[np.float64]) -> None:
    sampled = kept(probabilities, 6)
    sure = int(np.argmax(sampled.confidence))
    label = sampled.best.copy()
    label[sure] = sampled.class_id[sure, -1]
    sampled = replace(sampled, label=label)
    assert statistics.doubtful_labels(sampled, 10).tolist() == [sure]
    assert statistics.hardest(sampled, 3).tolist() == np.argsort(-statistics.entropy(sampled))[:3].tolist()
    # Of several views of one image only the first counts.
    one = replace(sampled, slot=sampled.slot * 0)
    assert len(statistics.hardest(one, 3)) == 1
