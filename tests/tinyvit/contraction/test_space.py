"""Points of the space: the paper's models are some, their costs are those of independent counters, steps stay in it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tinyvit.config import Space, Student
from tinyvit.contraction.count import count
from tinyvit.contraction.neighbours import neighbours
from tinyvit.contraction.point import Point, check, floor, steps
from tinyvit.errors import UserError
from tinyvit.models import create_student

PAPER = {
    "tiny_vit_5m_224": (Point((64, 128, 160, 320), (2, 2, 6, 2), (7, 14, 7), 4, 4, 32), 5.4e6, 1.3e9),
    "tiny_vit_11m_224": (Point((64, 128, 256, 448), (2, 2, 6, 2), (7, 14, 7), 4, 4, 32), 11e6, 2.0e9),
    "tiny_vit_21m_224": (Point((96, 192, 384, 576), (2, 2, 6, 2), (7, 14, 7), 4, 4, 32), 21e6, 4.3e9),
}
SEED = PAPER["tiny_vit_21m_224"][0]
LIKE = Student(name="tiny_vit_21m_224")


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_models_are_points(name: str) -> None:
    point, parameters, macs = PAPER[name]
    student = Student(name=name)
    assert Point.of(student) == point
    # The table of the paper rounds to a tenth of a million and of a billion.
    found = count(point, 224, 1000)
    assert found.parameters == pytest.approx(parameters, rel=0.01)
    assert found.macs == pytest.approx(macs, rel=0.04)
    # And from one of them by its factors alone: the same tensors.
    made, own = point.build(LIKE, 1000, 0), create_student(student, 1000, 0)
    assert {k: v.shape for k, v in made.state_dict().items()} == {k: v.shape for k, v in own.state_dict().items()}


def walk(rng: np.random.Generator, length: int) -> Point:
    """Somewhere below the seed."""
    point, space = SEED, Space(window_sizes=(4, 5, 7, 14), head_dims=(8, 16, 32), mlp_ratios=(2, 2.5, 3, 4))
    for _ in range(length):
        options = list(steps(point, space))
        point = options[rng.integers(len(options))]
    return point


def test_costs_are_those_of_independent_counters() -> None:
    rng = np.random.default_rng(0)
    for length, size in ((0, 224), (3, 224), (10, 64), (20, 100), (30, 37)):
        point = walk(rng, length)
        model = point.build(LIKE, 77, 0).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.zeros(1, 3, size, size))
        found = count(point, size, 77)
        assert found.parameters == sum(values.numel() for values in model.parameters()), point
        # torch counts a multiply-add as two operations.
        assert 2 * found.macs == counter.get_total_flops(), (point, size)


def test_a_step_makes_one_factor_smaller() -> None:
    found = list(steps(SEED, Space()))
    # Four widths, four depths, three windows, MBConv, MLP, heads.
    assert len(found) == len(set(found)) == 14
    for step in found:
        assert step.within(SEED)
        assert step != SEED
        changed = [name for name in vars(step) if getattr(step, name) != getattr(SEED, name)]
        assert len(changed) == 1
        assert all(dim % step.head_dim == 0 for dim in step.embed_dims[1:])
    smallest = floor(SEED, Space())
    assert smallest == Point((32, 32, 32, 32), (1, 1, 1, 1), (4, 4, 4), 2, 2, 32)
    # Heads that do not divide the channels are no neighbours.
    assert not [step for step in steps(SEED, Space(head_dims=(20, 32))) if step.head_dim == 20]


def test_neighbours_are_the_shortest_ways_down() -> None:
    space, bound = Space(), 14e6

    def keeps(point: Point) -> bool:
        return count(point, 224, 1000).parameters <= bound

    found = neighbours(SEED, space, 3, 1000, keeps, np.random.default_rng(0))
    assert len(found) > 5
    assert all(keeps(point) for point in found)
    single = [step for step in steps(SEED, space) if keeps(step)]
    assert found[: len(single)] == sorted(single, key=found.index)
    # None is what another one is with further steps: it would give up more than it must.
    assert not [a for a in found for b in found if a != b and a.within(b)]
    drawn = neighbours(SEED, space, 3, 5, keeps, np.random.default_rng(1))
    assert len(drawn) == 5
    assert drawn == neighbours(SEED, space, 3, 5, keeps, np.random.default_rng(1))
    assert drawn != neighbours(SEED, space, 3, 5, keeps, np.random.default_rng(2))


def test_where_nothing_near_will_do_it_goes_further() -> None:
    def keeps(point: Point) -> bool:
        return count(point, 224, 1000).parameters <= 9e6

    assert neighbours(SEED, Space(), 1, 4, keeps, np.random.default_rng(0))
    assert neighbours(SEED, Space(), 1, 4, lambda point: False, np.random.default_rng(0)) == []


def test_students_that_have_no_place_in_the_space() -> None:
    with pytest.raises(UserError, match="resnet18 is no TinyViT"):
        Point.of(Student(name="resnet18"))
    uneven = Student(name="tiny_vit_5m_224", kwargs={"num_heads": [2, 4, 5, 5]})
    with pytest.raises(UserError, match="have 32, 64 channels; contraction knows one head dimension"):
        Point.of(uneven)
    with pytest.raises(UserError, match="no step down"):
        check(floor(SEED, Space(head_dims=(32,))), Space(head_dims=(32,)))
