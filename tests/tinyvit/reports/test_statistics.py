"""Statistics of sparse rows against the same of dense ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from tinyvit.reports import statistics
from tinyvit.reports.answers import SampledRows

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


def spread(answers: SampledRows, top_k: int) -> NDArray[np.float64]:
    """[N, C]: the K best classes, the rest even over all others."""
    full = np.full((len(answers), CLASSES), np.nan)
    np.put_along_axis(full, answers.class_id[:, :top_k], answers.probability[:, :top_k], axis=1)
    rest = 1 - np.nansum(full, axis=1)
    return np.where(np.isnan(full), (rest / (CLASSES - top_k))[:, None] if top_k < CLASSES else 0, full)


@pytest.fixture
def probabilities() -> NDArray[np.float64]:
    return dense(np.random.default_rng(0))


@pytest.mark.parametrize("top_k", [1, 5, CLASSES])
def test_entropy_is_that_of_the_spread_answer(probabilities: NDArray[np.float64], top_k: int) -> None:
    answers = kept(probabilities, top_k)
    full = spread(answers, top_k)
    assert statistics.entropy(answers) == pytest.approx(-(full * np.log(full)).sum(axis=1), abs=1e-9)


@pytest.mark.parametrize(("top_k", "smaller"), [(5, 1), (5, 3), (5, 5), (CLASSES, 4), (CLASSES, CLASSES)])
def test_what_a_smaller_k_loses(probabilities: NDArray[np.float64], top_k: int, smaller: int) -> None:
    answers = kept(probabilities, top_k)
    full, less = spread(answers, top_k), spread(answers, smaller)
    wanted = (full * np.log(full / less)).sum(axis=1)
    assert statistics.divergence_of(answers, smaller) == pytest.approx(wanted, abs=1e-9)


def test_a_row_with_fewer_classes(probabilities: NDArray[np.float64]) -> None:
    answers = kept(probabilities, 5)
    sure = replace(answers, probability=answers.probability * [1, 0, 0, 0, 0], residual=1 - answers.confidence)
    few = kept(probabilities, 1)
    assert statistics.entropy(sure) == pytest.approx(statistics.entropy(few))
    assert statistics.divergence_of(sure, 1) == pytest.approx(0, abs=1e-12)
    assert sure.of_class(answers.class_id[:, 2]) == pytest.approx(few.spread)


def test_smaller_ks_are_round_numbers_and_k_itself() -> None:
    assert statistics.smaller_ks(100) == [1, 2, 5, 10, 20, 50, 100]
    assert statistics.smaller_ks(7) == [1, 2, 5, 7]
    assert statistics.smaller_ks(1) == [1]


def test_agreement_by_class_and_in_bins(probabilities: NDArray[np.float64]) -> None:
    answers = kept(probabilities, 6)
    label = answers.label.copy()
    label[:100] = answers.best[:100]
    label[100:110] = -1
    answers = replace(answers, label=label)
    known = label >= 0
    found = statistics.agreement(answers)
    assert found is not None
    assert found.rows == 290
    assert found.top1 == pytest.approx(100 * (answers.best == label)[known].mean())
    within = (answers.class_id[:, :5] == label[:, None]).any(axis=1)
    assert found.top5 == pytest.approx(100 * within[known].mean())
    classes = statistics.by_class(answers)
    assert sum(entry.rows for entry in classes) == 290
    assert sum(entry.rows * entry.top1 for entry in classes) / 290 == pytest.approx(found.top1)
    assert [entry.top1 for entry in classes] == sorted(entry.top1 for entry in classes)
    bins = statistics.reliability(answers)
    assert sum(entry.rows for entry in bins) == 290
    assert sum(entry.rows * entry.accuracy for entry in bins) / 290 == pytest.approx(found.top1 / 100)
    pairs = statistics.confusions(answers, 1000)
    assert sum(rows for _, _, rows in pairs) == int((answers.best != label)[known].sum())
    assert all(a != b for a, b, _ in pairs)
    assert statistics.agreement(replace(answers, label=label * 0 - 1)) is None


def test_the_most_doubtful_label_and_the_hardest_view_come_first(probabilities: NDArray[np.float64]) -> None:
    answers = kept(probabilities, 6)
    sure = int(np.argmax(answers.confidence))
    label = answers.best.copy()
    label[sure] = answers.class_id[sure, -1]
    answers = replace(answers, label=label)
    assert statistics.doubtful_labels(answers, 10).tolist() == [sure]
    assert statistics.hardest(answers, 3).tolist() == np.argsort(-statistics.entropy(answers))[:3].tolist()
    # Of several views of one image only the first counts.
    one = replace(answers, slot=answers.slot * 0)
    assert len(statistics.hardest(one, 3)) == 1
