"""The order of an epoch as numbers: complete, shuffled, reproducible, entered anywhere."""

from __future__ import annotations

from itertools import chain, combinations

import numpy as np
import pytest

from tinyvit.config import Augment
from tinyvit.data import order as order_module
from tinyvit.data.order import APART, BatchPartition, EpochOrder, EpochSequence, Turns, blocks, pairs
from tinyvit.views import partners, view_seeds

SAMPLES = (300, 0, 7, 1200, 1, 640, 333)


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_module, "WINDOW", 1000)


def alone(shard: int) -> np.ndarray:
    return blocks(SAMPLES[shard], 1)


def partner_of(shard: int) -> np.ndarray:
    return partners(view_seeds(0, f"{shard}.tar", 0, SAMPLES[shard]), Augment(mixup_alpha=0.8))


def paired(shard: int) -> np.ndarray:
    return pairs(partner_of(shard))


def in_blocks(shard: int) -> np.ndarray:
    return blocks(SAMPLES[shard], 64)


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
        partner = partner_of(shard)
        lonely = int((partner == np.arange(samples)).sum())
        assert lonely == samples % 2
        for slot, other in enumerate(partner):
            assert partner[other] == slot
            assert abs(place[shard, slot] - place[shard, int(other)]) <= 1


GROUPS = pytest.mark.parametrize(("who", "together"), [(alone, 1), (paired, 2), (in_blocks, 64)])


def ranks(order: EpochOrder, who, batch_size: int, world: int, parts: int = 1, start: int = 0):  # type: ignore[no-untyped-def]
    """What each rank takes: [rank][step] views, and the whole steps."""
    found = []
    for rank in range(world):
        divided = BatchPartition(order.total, batch_size, rank, world, parts, start)
        sequence = EpochSequence(order, who, batch_size // order.lanes)
        steps = [[sequence.take(span.start, len(span)) for span in divided.spans(n)] for n in range(divided.steps)]
        found.append([[tuple(place) for part in step for place in part.tolist()] for step in steps])
    return found


@GROUPS
def test_lanes_give_the_same_batches_to_any_number_of_ranks(who, together: int) -> None:  # type: ignore[no-untyped-def]
    order = EpochOrder(SAMPLES, 3, 1, lanes=4, together=together)
    (alone_,) = ranks(order, who, 40, 1)
    seen = [view for step in alone_ for view in step]
    assert len(seen) == len(set(seen)) == order.total // 40 * 40
    # Of the lanes' ends a few views are lost, of groups of 64 at most 63 a lane.
    assert sum(SAMPLES) - order.total < 4 * together
    for world, parts in ((2, 1), (4, 1), (4, 2), (8, 1), (5, 3)):
        shared = ranks(order, who, 40, world, parts)
        assert [list(chain(*step)) for step in zip(*shared, strict=True)] == alone_
    # A resume on another number of ranks goes on with the next step.
    later = ranks(order, who, 40, 2, start=7 * 40)
    assert [list(chain(*step)) for step in zip(*later, strict=True)] == alone_[7:]
    # Twice as large batches are of the same views.
    doubled = ranks(order, who, 80, 1)[0]
    assert [set(step) for step in doubled] == [
        {*one, *two} for one, two in zip(alone_[: 2 * len(doubled) : 2], alone_[1::2], strict=False)
    ]


@GROUPS
@pytest.mark.parametrize("lanes", [2, 4, 8])
def test_ranks_that_take_whole_lanes_read_shards_of_their_own(who, together: int, lanes: int) -> None:  # type: ignore[no-untyped-def]
    order = EpochOrder(SAMPLES, 0, 5, lanes=lanes, together=together)
    shards = [{shard for step in rank for shard, _ in step} for rank in ranks(order, who, 2 * lanes, lanes)]
    # Each of the borders between two lanes lies in at most one shard, which both then read.
    assert sum(map(len, shards)) - len(set.union(*shards)) <= lanes - 1
    assert all(len(one & other) <= 1 for one, other in combinations(shards, 2))


def test_an_epoch_has_as_many_views_whatever_the_order_of_its_shards() -> None:
    for together, who in ((1, alone), (2, paired), (64, in_blocks)):
        for epoch in range(20):
            order = EpochOrder(SAMPLES, 0, epoch, lanes=3, together=together)
            assert len(whole(order, who)) == order.total == EpochOrder(SAMPLES, 0, 0, 3, together).total


def test_with_more_lanes_than_views_there_is_nothing_to_take() -> None:
    order = EpochOrder((3, 2), 0, 0, lanes=8)
    assert order.total == 0
    assert sum(window.views for lane in range(8) for window in order.windows(lane)) == 5


@pytest.mark.parametrize("steps", [1, APART - 1, APART, APART + 1, 5 * APART + 7])
@pytest.mark.parametrize("views", [1, 2, 3, 7])
def test_turns_give_every_view_of_every_image_once(steps: int, views: int) -> None:
    turns = Turns(steps, views)
    taken = [turns.of(step) for step in range(steps * views)]
    assert sorted(taken) == [(images, view) for images in range(steps) for view in range(views)]
    assert all(turns.step(*turn) == step for step, turn in enumerate(taken))
    # The views of an image are equally far apart, and no further than the whole epoch is long.
    for images in range(steps):
        times = [turns.step(images, view) for view in range(views)]
        assert set(np.diff(times).tolist()) <= {APART, steps % APART}
    if views == 1:
        assert taken == [(step, 0) for step in range(steps)]
