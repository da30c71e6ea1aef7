"""What an encoding loses: nothing of ids, and of probabilities what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from logitstore import LogitStore, Rows, ShardTable, StoreSpec, Unit, UnitRows, verify
from logitstore.encoding import ENCODINGS

ROWS = 400


def answers(num_classes: int, spread: float) -> NDArray[np.float64]:
    """[ROWS, C]: a teacher that is the surer the larger the spread of its logits, over rows of all kinds."""
    rng = np.random.default_rng(num_classes)
    logits = rng.normal(size=(ROWS, num_classes)) * rng.uniform(0, spread, size=(ROWS, 1))
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = p / p.sum(axis=1, keepdims=True)
    return shares


def stored(
    path: Path, p: NDArray[np.float64], kept: NDArray[np.bool_] | None = None, **spec: object
) -> tuple[Rows, Rows]:
    """What was given to a store of one unit (as float32) and what it gives back, both sorted by class."""
    classes = p.shape[1]
    filled = StoreSpec(
        data="toy", epochs=1, epochs_per_unit=1, num_classes=classes, run_seed=0, teacher={}, augment={},
        libraries={}, created="", **spec,  # type: ignore[arg-type]
    )  # fmt: skip
    order = np.argsort(-p, axis=1, kind="stable")[:, : filled.top_k]
    best = np.take_along_axis(p, order, 1).astype(np.float32)
    if kept is not None:
        best = np.where(kept, best, 0)
    residual = np.zeros(ROWS) if filled.nothing_outside else 1 - best.sum(axis=1, dtype=np.float64)
    rows = UnitRows(
        class_id=order[None], probability=best[None], residual=np.maximum(residual, 0)[None],
        seed=np.arange(ROWS, dtype=np.uint32)[None], valid=np.ones((1, ROWS), bool),
        view_digest=np.zeros((1, 4), np.uint32),
    )  # fmt: skip
    table = ShardTable(("a.tar",), (ROWS,), ("",), (np.arange(ROWS, dtype=np.uint64),))
    store = LogitStore.create(path / "s", filled, table)
    store.write_unit(Unit(0, 0), rows)
    assert [faults for _, faults in verify(store)] == [[]]
    read = store.read(0, 0)
    assert (read.class_id[:, 0] == order[:, 0]).all(), "the best class comes first"
    assert (read.probability[:, 0] >= read.probability.max(axis=1)).all()
    given = replace(read, class_id=order.astype(np.uint32), probability=best, residual=rows.residual[0])
    return by_class(given), by_class(read)


def by_class(rows: Rows) -> Rows:
    """Kept entries in the order of class ids; absent ones last."""
    order = np.argsort(np.where(rows.probability > 0, rows.class_id.astype(np.int64), 2**40), axis=1, kind="stable")
    p = np.take_along_axis(rows.probability, order, 1)
    ids = np.where(p > 0, np.take_along_axis(rows.class_id, order, 1), 0)
    return replace(rows, class_id=ids, probability=p)


def divergence(given: Rows, read: Rows) -> NDArray[np.float64]:
    """[ROWS] Kullback-Leibler divergence of what was read from what was given, over kept classes and residual."""
    one, two = given.probability.astype(np.float64), read.probability.astype(np.float64)
    terms = np.where(one > 0, one * np.log(np.maximum(one, 1e-300) / np.maximum(two, 1e-300)), 0)
    found: NDArray[np.float64] = terms.sum(axis=1)
    r, q = given.residual.astype(np.float64), read.residual.astype(np.float64)
    found += np.where(r > 0, r * np.log(np.maximum(r, 1e-300) / np.maximum(q, 1e-300)), 0)
    found += np.log(two.sum(axis=1) + q)
    return found


@pytest.mark.parametrize("encoding", ["compact", "fine", "exact"])
@pytest.mark.parametrize(("classes", "top_k"), [(10, 1), (10, 10), (1000, 10), (1000, 100), (40_000, 50)])
@pytest.mark.parametrize("spread", [0.01, 5.0, 15.0])
def test_ids_come_back_and_probabilities_within_the_bound(
    tmp_path: Path, encoding: str, classes: int, top_k: int, spread: float
) -> None:
    given, read = stored(tmp_path, answers(classes, spread), encoding=encoding, top_k=top_k)
    assert (given.class_id == read.class_id).all()
    if encoding == "exact":
        assert (given.probability == read.probability).all()
        assert (given.residual.astype(np.float32) == read.residual).all()
    else:
        # Classes of many probabilities round to either side; those of a flat row may all be half a level off.
        squares = top_k / (2 if spread < 1 else 6)
        # Beside the classes the residual has its own step, and a class below half a level a probability of its own.
        levels, rest = {"compact": (320, 4e-5), "fine": (4096, 1e-6)}[encoding]
        assert divergence(given, read).mean() <= (squares + 4) / levels**2 + rest


@pytest.mark.parametrize("encoding", ["compact", "fine", "exact"])
def test_rows_of_several_lengths(tmp_path: Path, encoding: str) -> None:
    p = answers(1000, 8.0)
    best = -np.sort(-p, axis=1)[:, :50]
    kept = best.cumsum(axis=1) - best < 0.9
    given, read = stored(tmp_path, p, kept, encoding=encoding, top_k=50, selection="mass", mass=0.9)
    lengths = (read.probability > 0).sum(axis=1)
    assert (lengths == kept.sum(axis=1)).all()
    assert np.allclose(read.probability.sum(axis=1) + read.residual, 1, rtol=0, atol=2e-6)
    assert len(set(lengths)) > 20
    assert (given.class_id == read.class_id).all()
    assert divergence(given, read).mean() < 2e-4


def test_counts_come_back_exactly(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    counts = np.stack([rng.multinomial(300, p) for p in answers(1000, 6.0)])
    given, read = stored(tmp_path, counts / 300, encoding="counts", top_k=300, selection="sampled")
    assert (given.class_id == read.class_id).all()
    assert np.array_equal(np.rint(given.probability * 300), np.rint(read.probability * 300))
    assert (read.residual == 0).all()


@pytest.mark.parametrize("top_k", [5, 10, 40])
def test_the_best_class_stays_first_where_another_is_just_as_likely(top_k: int) -> None:
    """Levels whose squares leave the best class exactly the second one's: rounding must not turn them around."""
    levels, rng = 320, np.random.default_rng(top_k)
    second = rng.integers(80, 224, 300_000)
    others = rng.integers(1, 40, (len(second), top_k - 3))
    rest = levels**2 - 2 * second**2 - (others**2).sum(axis=1)
    last = np.rint(np.sqrt(np.maximum(rest, 0))).astype(np.int64)
    tied = (last**2 == rest) & (last < second)
    level = rng.permuted(np.column_stack([second, others, last])[tied], axis=1)
    p = (np.column_stack([second[tied], level]) / levels).astype(np.float32) ** 2
    assert len(p) > 100
    encoding, residual = ENCODINGS["compact"], np.zeros(len(p), np.float32)
    read = encoding.decode(encoding.encode(p, residual, top_k), None, residual, top_k)
    assert (read[:, 0] >= read.max(axis=1)).all()


@pytest.mark.parametrize("encoding", ["compact", "fine"])
@pytest.mark.parametrize("top_k", [2, 10, 100, 1000, 70_000])
@pytest.mark.parametrize("spread", [0.01, 1.0, 3.0, 12.0])
@pytest.mark.parametrize("best", [None, 0.7, 0.999])
def test_no_class_is_off_by_more_than_what_verify_allows(
    encoding: str, top_k: int, spread: float, best: float | None
) -> None:
    """The best class takes what the rounding of the others leaves, of which there may be many thousands."""
    rng, count = np.random.default_rng(top_k), 2 if top_k > 1000 else 200
    p = np.exp(rng.normal(size=(count, top_k)) * spread)
    p = -np.sort(-p, axis=1)
    if best is not None:
        p[:, 0] = best / (1 - best) * p[:, 1:].sum(axis=1)
        p = -np.sort(-p, axis=1)
    outside = rng.uniform(0, 0.5, size=(count, 1)) if top_k <= 100 else np.zeros((count, 1))
    p = (p / p.sum(axis=1, keepdims=True) * (1 - outside)).astype(np.float32)
    coding = ENCODINGS[encoding]
    residual = coding.decode_residual(coding.encode_residual(outside[:, 0]), all_kept=top_k > 100)
    read = coding.decode(coding.encode(p, residual, top_k), None, residual, top_k)
    allowed = np.stack([coding.errors(row) for row in read])
    # Rounding of float32 sums, which the comparison with a live teacher has as well.
    assert (np.abs(np.sqrt(p) - np.sqrt(read)) <= allowed + 2e-5).all()
    assert (read[:, 0] >= read.max(axis=1) - 1e-6).all()
