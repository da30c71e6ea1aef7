"""Costs that are measured, and bounds that are tightened to a budget."""

from __future__ import annotations

import pytest
import torch

from tinyvit.config import Contraction, Student
from tinyvit.contraction.costs import Bounds, Costs
from tinyvit.contraction.meter import Meter
from tinyvit.contraction.point import Point

FIRST = Point((48, 96, 144, 192), (2, 2, 2, 2), (4, 4, 2), 4, 4, 16)
SMALL = Point((16, 32, 48, 64), (1, 1, 1, 1), (4, 4, 2), 2, 2, 16)


def meter(**budget: float) -> Meter:
    plan = Contraction.model_validate({"stage": "distill", "budget": budget, "batch_size": 16, "repeats": 5})
    like = Student(name="tiny_vit_5m_224", kwargs={"img_size": 64})
    return Meter(FIRST, like, 64, 10, plan, torch.device("cpu"), torch.float32)


def test_what_is_measured() -> None:
    timed = meter(parameters=1e6, latency_ms=100, memory_mib=100)
    first, small = timed.measure(FIRST), timed.measure(SMALL)
    assert first.throughput == 1
    assert small.throughput is not None
    assert small.throughput > 2
    # One image takes less than a batch, and a few operations more than nothing.
    assert small.latency_ms is not None
    assert small.images_per_s is not None
    assert 1000 / small.images_per_s < small.latency_ms < 16 * 1000 / small.images_per_s * 4
    assert small.memory_mib is not None
    assert first.memory_mib is not None
    # Weights, and at least what the widest layer makes of sixteen images.
    widest = 16 * 4 * 48 * 16 * 16 * 4 / 2**20
    weights = first.parameters * 4 / 2**20
    assert weights + widest < first.memory_mib < weights + 8 * widest
    assert small.memory_mib < first.memory_mib / 2
    assert meter(parameters=1e6).measure(SMALL).latency_ms is None


def test_memory_is_what_tensors_take_at_once() -> None:
    """Of a network whose tensors can be counted by hand: the peak, not the sum."""
    layers = torch.nn.Sequential(*[torch.nn.Tanh() for _ in range(5)])
    held = meter(memory_mib=1)._memory(layers, torch.zeros(2**18))
    # The images, and of five results two at once.
    assert held == pytest.approx(3.0)


def test_every_cost_goes_the_same_part_of_its_way() -> None:
    budget = Bounds({"parameters": 5e6, "throughput": 2.0})
    costs, rounds = Costs(20_000_000, 0, 1.0), 0
    while budget.broken(costs):
        bounds = budget.tightened(costs, 0.8)
        left = [bounds.values["parameters"] / 5e6, 2.0 / bounds.values["throughput"]]
        # Four times too many, half as fast: twice as far, on a scale of ratios.
        assert left[0] == pytest.approx(left[1] ** 2)
        assert bounds.values["parameters"] >= 0.8 * costs.parameters
        costs = Costs(int(bounds.values["parameters"]), 0, bounds.values["throughput"])
        rounds += 1
    assert rounds == 7
    assert costs.parameters == 5_000_000
    # A cost that is within the budget already must stay there.
    assert budget.tightened(Costs(20_000_000, 0, 3.0), 0.8).values["throughput"] == 2.0


def test_bounds_say_what_breaks_them() -> None:
    bounds = Bounds({"parameters": 5e6, "throughput": 2.0, "memory_mib": 10})
    assert bounds.broken(Costs(5_000_001, 0)) == ["parameters"]
    assert bounds.broken(Costs(5_000_000, 0, 1.99, memory_mib=11)) == ["throughput", "memory_mib"]
    assert bounds.broken(Costs(5_000_000, 0, 2.0, memory_mib=10)) == []
    assert bounds.told(["throughput"]) == "at least 2.00 times the throughput"
