"""Rows drawn from a store are rows of the store, with the labels of their own images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import MANY_UNITS, label_all, samples_of

from logitstore import LogitStore, Unit
from tinyvit.config import load_recipe
from tinyvit.data.index import index_shards
from tinyvit.data.location import resolve_data
from tinyvit.labelling.describe import best_classes
from tinyvit.models.teachers import Teacher
from tinyvit.reports.sampled_rows import sample_rows, with_labels
from tinyvit.runtime.progress import SilentProgress


@pytest.mark.parametrize("most", [1, 300, 10_000])
def test_drawn_rows_are_the_stores(whole: LogitStore, most: int) -> None:
    sampled = sample_rows(whole, most, 3, SilentProgress())
    total = whole.spec.epochs * sum(whole.samples)
    assert (sampled.of, sampled.drawn, len(sampled)) == (total, min(most, total), min(most, total))
    for number in range(0, len(sampled), 97):
        rows = whole.read(int(sampled.epoch[number]), int(sampled.shard[number]))
        slot = int(sampled.slot[number])
        said = zip(sampled.class_id[number].tolist(), sampled.probability[number].tolist(), strict=True)
        assert [(c, pytest.approx(p)) for c, p in best_classes(rows, slot)] == list(said)
        assert rows.seed[slot] == sampled.seed[number]
        assert rows.residual[slot] == pytest.approx(sampled.residual[number])
    places = np.stack([sampled.epoch, sampled.shard, sampled.slot])
    assert len(np.unique(places, axis=1).T) == len(sampled)


def test_a_draw_is_decided_by_its_seed_and_meets_every_unit(whole: LogitStore) -> None:
    one, same, other = (sample_rows(whole, 200, seed, SilentProgress()) for seed in (1, 1, 2))
    assert (one.slot == same.slot).all()
    assert (one.slot != other.slot).any()
    assert len(np.unique(np.stack([one.epoch, one.shard]), axis=1).T) == 16


def test_only_units_that_are_there(small_data: Path, teacher: Teacher, tmp_path: Path) -> None:
    store = label_all(resolve_data(load_recipe("example", MANY_UNITS), small_data), tmp_path / "s", teacher)
    for unit in store.units()[3:]:
        store.uncommit(unit)
    assert store.units()[:3] == [Unit(0, 0), Unit(0, 1), Unit(1, 0)]
    sampled = sample_rows(store, 10_000, 0, SilentProgress())
    assert {*zip(sampled.epoch.tolist(), sampled.shard.tolist(), strict=True)} == {(0, 0), (0, 1), (1, 0)}
    for unit in store.units()[:3]:
        store.uncommit(unit)
    assert len(sample_rows(store, 10_000, 0, SilentProgress())) == 0


def test_labels_are_those_of_the_images(whole: LogitStore, small_data: Path) -> None:
    index = index_shards(small_data / "train", SilentProgress())
    labels = [sample.label for sample in samples_of(small_data / "train")]
    sampled = with_labels(sample_rows(whole, 400, 0, SilentProgress()), index, None, SilentProgress())
    first = np.cumsum([0, *index.counts])
    wanted = [labels[first[shard] + slot] for shard, slot in zip(sampled.shard, sampled.slot, strict=True)]
    assert sampled.label.tolist() == wanted
    # The teacher's ids of the data's ten classes; it does not have the fourth.
    ids = [100, 90, 80, -1, 60, 50, 40, 30, 20, 10]
    sampled = with_labels(sampled, index, ids, SilentProgress())
    assert sampled.label.tolist() == [ids[label] for label in wanted if label is not None]
    assert len(sampled.labelled) == sum(label != 3 for label in wanted)
