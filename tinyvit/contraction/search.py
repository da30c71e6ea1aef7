"""Progressive contraction: a constrained local search from a large student down to a budget.

TinyViT (ECCV 2022, section 3.2): around the best student so far smaller ones are made by small steps of single factors;
those that keep within the bounds of the round are trained a short while; the best becomes the next; the bounds are
tightened until the budget is met. Nothing here knows where candidates are trained: `contract` is told how.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import numpy as np

from logitstore import digest_of
from tinyvit.config import Recipe
from tinyvit.contraction.candidate import train_candidate
from tinyvit.contraction.costs import Bounds, Costs
from tinyvit.contraction.meter import Meter, device_of
from tinyvit.contraction.neighbours import neighbours
from tinyvit.contraction.point import Point, check, floor
from tinyvit.contraction.rounds import Candidate, Round, SearchFolder
from tinyvit.data.index import ShardIndex
from tinyvit.errors import UserError
from tinyvit.models import input_size
from tinyvit.runtime.provenance import library_versions, now
from tinyvit.training.model_runner import precision_of
from tinyvit.training.run import Run

log = logging.getLogger("tinyvit")

# Settings that decide nothing about the rounds that are done.
NEXT_STEPS = frozenset({"budget", "space", "tighten", "reach", "candidates", "measured"})
# Trains the candidates of a round that have no score yet.
TrainAll = Callable[[Round], None]


class Search:
    """The search of a recipe in a run on a store. UserError for an impossible budget, or a space without steps."""

    def __init__(self, run: Run[ShardIndex]) -> None:
        recipe = run.recipe
        self.plan = plan = recipe.contract
        self.first = Point.of(recipe.student)
        check(self.first, plan.space)
        self.held_out, shards = divide(len(run.data), plan.held_out, plan.share, plan.seed)
        self.run = replace(run, shards=shards)
        self.budget = Bounds(plan.budget.bounds)
        self.folder = SearchFolder(run.folder, _digest(recipe, run))

    def contract(self, train_all: TrainAll) -> list[Round]:
        """Every round to the last, which has the student that meets the budget."""
        self.folder.begin({"recipe": self.run.recipe.record(), "libraries": library_versions(), "time": now()})
        rounds: list[Round] = []
        while not rounds or self.budget.broken(rounds[-1].best.costs):
            number = len(rounds)
            decided = self.folder.read(number) or self._decide(number, rounds[-1].best if rounds else None)
            train_all(decided)
            done = self.folder.read(number)
            assert done
            self.folder.drop_weights(done)
            rounds.append(done)
            _tell(done)
        return rounds

    def train(self, number: int, candidate: str) -> None:
        """Train and score one candidate of a round, if that is not done."""
        decided = self.folder.read(number)
        assert decided
        (wanted,) = (entry for entry in decided.candidates if entry.folder == candidate)
        train_candidate(self.run, self.folder, decided, wanted, self.held_out)

    def _decide(self, number: int, parent: Candidate | None) -> Round:
        """The candidates of a round, within its bounds."""
        if parent is None:
            first = self.meter.measure(self.first)
            self._refuse_impossible(first)
            return self.folder.decide(0, None, {}, {self.first: first}, 1)
        bounds = self.budget.tightened(parent.costs, self.plan.tighten)
        timed = {"throughput", "latency_ms", "memory_mib"} & set(bounds.values)
        costs: dict[Point, Costs] = {}

        def keeps(point: Point) -> bool:
            if bounds.broken(self.meter.on_paper(point)):
                return False
            if not timed:
                return True
            if len(costs) == self.plan.measured:
                return False
            costs[point] = self.meter.measure(point)
            bar.advance(1, point.name)
            return not bounds.broken(costs[point])

        # Each round draws by itself: a resumed search draws what an undisturbed one does.
        rng = np.random.default_rng([self.plan.seed, number])
        log.info("round %d: %s", number, bounds.told())
        space, reach, wanted = self.plan.space, self.plan.reach, self.plan.candidates
        with self.run.progress.task("measure", self.plan.measured if timed else wanted, "networks") as bar:
            found = neighbours(parent.point, space, reach, wanted, keeps, rng)
            for point in found:
                if point not in costs:
                    costs[point] = self.meter.measure(point)
                    bar.advance(1, point.name)
        if not found:
            raise UserError(
                f"round {number}: no student smaller than {parent.point.name} keeps {bounds.told()}; "
                f"{len(costs)} were measured; raise contract.measured or contract.tighten, or widen contract.space: the"
                f" same command then goes on from here"
            )
        return self.folder.decide(number, parent, bounds.values, {point: costs[point] for point in found}, len(costs))

    def _refuse_impossible(self, first: Costs) -> None:
        """UserError where not even the smallest student of the space would do, or where there is nothing to do."""
        if not self.budget.broken(first):
            raise UserError(f"the student of the recipe keeps the budget already ({self.budget.told()}); lower it")
        smallest = floor(self.first, self.plan.space)
        costs = self.meter.on_paper(smallest)
        broken = self.budget.broken(costs)
        if not broken:
            costs = self.meter.measure(smallest)
            broken = self.budget.broken(costs)
        if broken:
            there = Bounds({name: costs.as_dict()[name] for name in broken}).told_exactly()
            raise UserError(
                f"the budget cannot be met: it wants {self.budget.told(broken)}, the smallest student of the space "
                f"({smallest.name}) has {there}; widen contract.space, or the budget"
            )

    @cached_property
    def meter(self) -> Meter:
        """Measures beside the first student."""
        recipe = self.run.recipe
        device = device_of(self.plan.device) if self.plan.device else self.run.world.device
        classes = self.plan.classes or self.run.taught.num_classes
        size = input_size(self.first.build(recipe.student, 1, 0))
        dtype = precision_of(recipe.engine.precision, device)
        return Meter(self.first, recipe.student, size, classes, self.plan, device, dtype)


def divide(shards: int, held_out: float, share: float, seed: int) -> tuple[frozenset[int], frozenset[int]]:
    """(those that are scored on, those that are trained on) of so many shards, each at least one.

    UserError where there are fewer than two.
    """
    if shards < 2:
        raise UserError("contraction trains on some shards and scores on others, but there is one; make smaller shards")
    order = np.random.default_rng(seed).permutation(shards).tolist()
    held = max(1, min(shards - 1, math.floor(held_out * shards)))
    trained = max(1, min(shards - held, round(share * shards)))
    return frozenset(order[:held]), frozenset(order[held : held + trained])


def _digest(recipe: Recipe, run: Run[ShardIndex]) -> str:
    """Of everything that decides the path, but how fast the machine is."""
    record = recipe.record()
    # A search may go on with other settings of the engine, with shards elsewhere, and with other next steps.
    parts = {name: record[name] for name in ("label", "student", "stages")}
    parts["contract"] = {name: value for name, value in record["contract"].items() if name not in NEXT_STEPS}
    return digest_of([parts, run.taught.identity(), list(run.data.table.sha256)])


def _tell(done: Round) -> None:
    best = done.best
    assert best.score
    log.info(
        "round %d: %s with %.2f M parameters, %.2f times the throughput: loss %.4f, agreement %.1f %%",
        done.number, best.point.name, best.costs.parameters / 1e6, best.costs.throughput, best.score.loss,
        best.score.agreement,
    )  # fmt: skip
