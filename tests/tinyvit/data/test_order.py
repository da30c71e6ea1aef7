"""The order of an epoch as numbers: complete, shuffled, reproducible, entered anywhere."""

from __future__ import annotations

import numpy as np
import pytest

from tinyvit.config import Augment
from tinyvit.data import order as order_module
from tinyvit.data.order import EpochOrder, EpochSequence
from tinyvit.views import partners, view_seeds

SAMPLES = (300, 0, 7, 1200, 1, 640, 333)


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_module, "WINDOW", 1000)


def alone(shard: int) -> np.ndarray:
    return np.arange(SAMPLES[shard])


def paired(shard: int) -> np.ndarray:
    return partners(view_seeds(0, f"{shard}.tar", 0, SAMPLES[shard]), Augment(mixup_alpha=0.8))


def whole(order: EpochOrder, who=alone) -> list[tuple[int, int]]:  # type: ignore[no-untyped-def]
    return [tuple(place) for place in EpochSequence(order, who).take(0, order.total).tolist()]


@pytest.mark.parametrize("who", [alone, paired])
def test_an_epoch_has_every_view_once(who) -> None:  # type: ignore[no-untyped-def]
    order = EpochOrder(SAMPLES, seed=3, epoch=0)
    found = whole(order, who)
    assert len(found) == order.total == sum(SAMPLES)
    assert set(found) == {(shard, slot) for shard, n in enumerate(SAMPLES) for slot in range(n)}
    assert len(order.windows()) > 1


def test_order_differs_by_epoch_and_seed_and_is_reproducible() -> None:
    orders = [whole(EpochOrder(SAMPLES, seed, epoch)) for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2] != orders[3] != orders[0]


def test_a_window_is_shuffled_through_and_through() -> None:
    found = np.array(whole(EpochOrder(SAMPLES, 0, 0)))
    neighbours = (np.diff(found[:, 0]) == 0) & (np.abs(np.diff(found[:, 1])) == 1)
    assert neighbours.mean() < 0.01
    # Shards of one window alternate.
    assert (np.diff(found[:, 0]) != 0).mean() > 0.3


def test_it_is_entered_anywhere_and_in_steps_of_any_size() -> None:
    order = EpochOrder(SAMPLES, 0, 2)
    wanted = whole(order)
    rng = np.random.default_rng(0)
    sequence = EpochSequence(order, alone)
    for first in rng.integers(order.total, size=50):
        count = int(rng.integers(1, order.total - first + 1))
        assert [tuple(p) for p in sequence.take(int(first), count).tolist()] == wanted[first : first + count]


def test_partners_follow_one_another() -> None:
    found = whole(EpochOrder(SAMPLES, 0, 0), paired)
    place = {view: i for i, view in enumerate(found)}
    for shard, samples in enumerate(SAMPLES):
        partner = paired(shard)
        lonely = int((partner == np.arange(samples)).sum())
        assert lonely == samples % 2
        for slot, other in enumerate(partner):
            assert partner[other] == slot
            assert abs(place[shard, slot] - place[shard, int(other)]) <= 1
