"""Copies, merged stores and what two stores say differently."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy import assert_equal_stores

from logitstore import LogitStore, ShardTable, StoreError, Unit, copy, diff, merge, verify
from logitstore.testing import SPEC, TABLE, made_store, random_rows


def test_a_copy_is_equal_bit_by_bit_and_sealed(tmp_path: Path) -> None:
    source = made_store(tmp_path / "one")
    source.seal()
    assert list(copy(source, tmp_path / "two")) == source.units()
    made = LogitStore.open(tmp_path / "two")
    assert made.sealed
    assert made.spec == source.spec
    assert_equal_stores(source, made)
    assert list(copy(source, tmp_path / "two")) == []


@pytest.mark.parametrize("encoding", ["fine", "exact"])
def test_a_copy_in_another_encoding_and_back_changes_no_level(tmp_path: Path, encoding: str) -> None:
    source = made_store(tmp_path / "one")
    list(copy(source, tmp_path / "two", encoding=encoding))
    list(copy(LogitStore.open(tmp_path / "two"), tmp_path / "three", encoding="compact"))
    found = list(diff(source, LogitStore.open(tmp_path / "three")))
    assert sum(d.rows for d in found) == 24
    assert max(d.variation.max() for d in found) < 1e-3


def test_a_copy_of_some_epochs_with_fewer_classes(tmp_path: Path) -> None:
    source = made_store(tmp_path / "one")
    list(copy(source, tmp_path / "two", epochs=range(1, 3), top_k=2))
    made = LogitStore.open(tmp_path / "two")
    assert (made.spec.epochs, made.spec.top_k) == (2, 2)
    for epoch in (0, 1):
        whole, part = source.read(epoch + 1, 0), made.read(epoch, 0)
        assert (part.seed == whole.seed).all()
        assert (part.class_id[:, 0] == whole.class_id[:, 0]).all()
        best = -np.sort(-whole.probability, axis=1)[:, :2]
        assert np.allclose(-np.sort(-part.probability, axis=1), best, atol=5e-3)
        assert np.allclose(part.residual, whole.residual + whole.probability.sum(axis=1) - best.sum(axis=1), atol=5e-3)
    assert not any(faults for _, faults in verify(made))


def test_an_interrupted_copy_goes_on_where_it_stopped(tmp_path: Path) -> None:
    source = made_store(tmp_path / "one")
    for _ in zip(range(2), copy(source, tmp_path / "two"), strict=False):
        pass
    assert len(LogitStore.open(tmp_path / "two").missing()) == 2
    assert len(list(copy(source, tmp_path / "two"))) == 2
    assert_equal_stores(source, LogitStore.open(tmp_path / "two"))


def test_a_unit_that_the_source_lacks_stays_missing(tmp_path: Path) -> None:
    source = made_store(tmp_path / "one")
    source.uncommit(Unit(0, 1))
    list(copy(source, tmp_path / "two", epochs=range(1, 3)))
    made = LogitStore.open(tmp_path / "two")
    assert made.missing() == [Unit(0, 1)]
    assert not made.sealed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": range(2, 4)}, "epochs 0 to 2"),
        ({"top_k": 5}, "keeps 4 classes"),
        ({"encoding": "tiny"}, "unknown"),
        ({"encoding": "counts"}, "counts, and only they"),
    ],
)
def test_copies_that_cannot_be(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    source = made_store(tmp_path / "one")
    with pytest.raises(StoreError, match=message):
        list(copy(source, tmp_path / "two", **change))
    assert not (tmp_path / "two").exists()


def test_units_of_two_machines_become_one_sealed_store(tmp_path: Path) -> None:
    whole = made_store(tmp_path / "whole")
    parts = [LogitStore.create(tmp_path / name, SPEC, TABLE, whole.class_names) for name in "ab"]
    for number, unit in enumerate(whole.units()):
        parts[number % 2].write_unit(unit, random_rows(unit))
    assert len(list(merge(parts[:1], tmp_path / "merged"))) == 2
    assert not LogitStore.open(tmp_path / "merged").sealed
    assert len(list(merge(parts, tmp_path / "merged"))) == 2
    merged = LogitStore.open(tmp_path / "merged")
    assert merged.sealed
    assert_equal_stores(merged, whole)


@pytest.mark.parametrize("what", ["specification", "libraries", "data"])
def test_stores_that_do_not_belong_together_are_not_merged(tmp_path: Path, what: str) -> None:
    one = made_store(tmp_path / "one")
    changes: dict[str, dict[str, Any]] = {
        "specification": {"run_seed": 8},
        "libraries": {"libraries": {"numpy": "0"}},
    }
    spec = replace(SPEC, **changes.get(what, {}))
    table = TABLE if what != "data" else ShardTable(TABLE.name, TABLE.samples, ("aa", "cc"), TABLE.key_digest)
    two = LogitStore.create(tmp_path / "two", spec, table, one.class_names)
    with pytest.raises(StoreError, match=r"same (specification|data)|not of the"):
        list(merge([one, two], tmp_path / "merged"))
    assert not (tmp_path / "merged").exists()


def test_differences_are_counted(tmp_path: Path) -> None:
    one, two = made_store(tmp_path / "one"), made_store(tmp_path / "two")
    assert all(d.equal == d.rows and d.variation.max() == 0 for d in diff(one, two))
    rows = random_rows(Unit(1, 0))
    swapped = rows.class_id.copy()
    swapped[0, 2, :2] = rows.class_id[0, 2, 1::-1]
    seed, valid = rows.seed.copy(), rows.valid.copy()
    seed[0, 3], valid[0, 4] = 77_777, False
    two.write_unit(Unit(1, 0), replace(rows, class_id=swapped, seed=seed, valid=valid))
    changed = {(d.epoch, d.shard): d for d in diff(one, two) if d.equal != d.rows}
    assert list(changed) == [(2, 0)]
    found = changed[2, 0]
    assert (found.rows, found.equal, found.other_best, found.other_seed, found.other_validity) == (4, 3, 1, 1, 1)
    p = one.read(2, 0).probability[2]
    gap = p[0] - np.sort(p)[-2]
    assert found.variation[2] == pytest.approx(gap, rel=1e-4)
