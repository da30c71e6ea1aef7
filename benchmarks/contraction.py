"""`tinyvit bench contraction`: what a search is worth, beside random search of the same budget and students by hand.

For each of some seeds: the search of the recipe contract-example, once with inherited weights and once without; random
search, which trains as many students as the first for as many images in all, drawn from the same space under the same
budget; two students made by hand of the same cost. The best of each is then trained in full, from fresh weights, by
the recipe's stages, and measured on Fashion-MNIST's 10,000 test images. All figures are reported, whichever wins.
Everything is kept in a folder: what was stopped goes on there.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from benchmarks.tables import file_table, mean_and_spread, terminal
from logitstore import LogitStore
from tinyvit.config import Recipe, load_recipe
from tinyvit.contraction.candidate import train_candidate
from tinyvit.contraction.costs import Costs
from tinyvit.contraction.point import Point, floor
from tinyvit.contraction.rounds import SearchFolder
from tinyvit.contraction.run import contract, open_search
from tinyvit.contraction.search import Search
from tinyvit.data.index import index_shards
from tinyvit.data.loader import default_workers
from tinyvit.data.training_views import counts_of
from tinyvit.datasets.fetch import fetch_fashion_mnist
from tinyvit.evaluation import EvalModel, Evaluator, open_images
from tinyvit.labelling.label import label_store
from tinyvit.models import load_student
from tinyvit.models.teachers import load_teacher
from tinyvit.runtime.distributed import World, default_device
from tinyvit.runtime.progress import Progress
from tinyvit.tasks.run import open_run
from tinyvit.tasks.signals import StoredSignals
from tinyvit.training.folder import write_json
from tinyvit.training.train import train

COLUMNS = ("student", "parameters", "G MACs", "throughput", "top-1 %", "each seed", "search: images", "seconds")
# By hand, of about the parameters and the throughput that the budget allows: few wide blocks, and more narrow ones.
BY_HAND = {
    "by hand, wide": Point((48, 64, 80, 112), (1, 1, 1, 1), (4, 4, 2), 4, 4, 16),
    "by hand, deep": Point((32, 48, 80, 96), (2, 1, 2, 1), (4, 4, 2), 4, 4, 16),
}
# Random students use at least so much of the parameters that they may.
USED = 0.85


def compare(folder: Path, seeds: int, overrides: list[str], progress: Progress) -> dict[str, Any]:
    """Figures of every way and seed; `overrides` are of contract-example."""
    data = folder / "data"
    if not (data / "val").is_dir():
        fetch_fashion_mnist(data, progress)
    recipe = load_recipe("contract-example", overrides)
    teacher = load_teacher(recipe.label.teacher, default_device(), recipe.label.classes)
    opened, _ = label_store(recipe, folder / "store", teacher, default_workers(), progress)
    index = index_shards(recipe.data.train, progress)
    found: dict[str, Any] = {"seeds": seeds, "ways": {}}
    for seed in range(seeds):
        chosen: dict[str, dict[str, Any]] = {}
        for way, inherit in (("contraction", True), ("contraction, fresh weights", False)):
            changes = [*overrides, f"contract.seed={seed}", f"contract.inherit={str(inherit).lower()}"]
            home = folder / f"seed-{seed}" / ("inherited" if inherit else "fresh")
            chosen_recipe = load_recipe("contract-example", changes)
            search = open_search(chosen_recipe, home, opened, index, default_workers(), progress)
            chosen[way] = _last(contract(search))
            if inherit:
                first, images = search, chosen[way]["pictures"]
        chosen["random search"] = _random(first, folder / f"seed-{seed}" / "random", images)
        meter = first.meter
        for way, point in BY_HAND.items():
            chosen[way] = {"point": point, "costs": meter.measure(point), "pictures": 0, "seconds": 0.0}
        for way, entry in chosen.items():
            run = folder / f"seed-{seed}" / "full" / way.replace(", ", "-").replace(" ", "-")
            top1 = _train_in_full(recipe, entry["point"], seed, run, opened, data / "val", progress)
            line = found["ways"].setdefault(way, [])
            line.append(
                {
                    "student": entry["point"].name,
                    **entry["costs"].as_dict(),
                    "top1": top1,
                    "pictures": entry["pictures"],
                    "seconds": entry["seconds"],
                }
            )
    write_json(folder / "comparison.json", found)
    return found


def _last(path: dict[str, Any]) -> dict[str, Any]:
    """The student at the end of a search, and what the search took."""
    (best,) = (entry for entry in path["rounds"][-1]["candidates"] if entry["chosen"])
    everyone = [entry for of in path["rounds"] for entry in of["candidates"]]
    names = Costs.__dataclass_fields__
    return {
        "point": Point.from_dict(best["point"]),
        "costs": Costs(**{name: best[name] for name in names if name in best}),
        "pictures": path["images_trained_on"],
        "seconds": sum(entry["seconds"] for entry in everyone),
        "trained": len(everyone),
    }


def _random(search: Search, folder: Path, images: int) -> dict[str, Any]:
    """The best of as many students, trained for as many images in all, drawn from the space under the budget."""
    plan, run = search.plan, search.run
    count = sum(1 for _ in search.folder.path.glob("round-*/c*/score.json")) - 1
    home = SearchFolder(folder, f"random {plan.seed}")
    decided = home.read(1)
    if decided is None:
        home.begin({})
        decided = home.decide(1, None, {}, _drawn(search, count), 0)
    # As one of a search's first students, each is trained afresh for `seed_epochs`.
    epochs = max(1, round(images / count / sum(counts_of(run.data, run.shards))))
    alone = run.recipe.model_copy(update={"contraction": plan.model_copy(update={"seed_epochs": epochs})})
    for candidate in decided.candidates:
        train_candidate(replace(run, recipe=alone), home, decided, candidate, search.held_out)
    decided = home.read(1)
    assert decided
    scores = [candidate.score for candidate in decided.candidates if candidate.score]
    return {
        "point": decided.best.point,
        "costs": decided.best.costs,
        "pictures": sum(score.images for score in scores),
        "seconds": sum(score.seconds for score in scores),
    }


def _drawn(search: Search, count: int) -> dict[Point, Costs]:
    """Students that keep the budget, each factor drawn evenly from its values."""
    plan, space, first = search.plan, search.plan.space, search.first
    least, rng, meter = floor(first, space), np.random.default_rng([plan.seed, 1]), search.meter

    def sizes(low: int, high: int, step: int) -> int:
        return int(rng.choice(np.arange(low, high + 1, step)))

    def one_of(values: tuple[float, ...] | tuple[int, ...], most: float) -> float:
        return float(rng.choice([value for value in values if value <= most]))

    chosen: dict[Point, Costs] = {}
    while len(chosen) < count:
        point = Point(
            tuple(sizes(a, b, space.dim_step) for a, b in zip(least.embed_dims, first.embed_dims, strict=True)),
            tuple(sizes(a, b, 1) for a, b in zip(least.depths, first.depths, strict=True)),
            tuple(int(one_of(space.window_sizes, most)) for most in first.window_sizes),
            one_of(space.expand_ratios, first.expand_ratio),
            one_of(space.mlp_ratios, first.mlp_ratio),
            int(one_of(space.head_dims, first.head_dim)),
        )
        paper = meter.on_paper(point)
        enough = paper.parameters >= USED * (plan.budget.parameters or 0) and not search.budget.broken(paper)
        if enough and point not in chosen and not search.budget.broken(costs := meter.measure(point)):
            chosen[point] = costs
    return chosen


def _train_in_full(
    recipe: Recipe, point: Point, seed: int, folder: Path, store: LogitStore, test: Path, progress: Progress
) -> float:
    """Top-1 on the test images after the recipe's stages, from fresh weights."""
    student = point.student(recipe.student, None)
    stages = {name: stage.model_copy(update={"seed": seed}) for name, stage in recipe.stages.items()}
    whole = recipe.model_copy(
        update={
            "student": student,
            "stages": stages,
            "contraction": None,
            "data": recipe.data.model_copy(update={"val": None}),
        }
    )
    run = open_run(whole, folder, list(stages), default_workers(), progress)
    *_, last = train(replace(run, signals=StoredSignals(store)), list(stages))
    model = load_student(Path(last["checkpoint"]))
    subject = EvalModel.of(model, None)
    world = World()
    evaluator = Evaluator(subject, [open_images(str(test), progress)], world, default_workers(), torch.float32)
    return evaluator.measure(model.to(world.device)).top1


def table(found: dict[str, Any]) -> Table:
    """What was measured, for a terminal."""
    return terminal(COLUMNS, _rows(found), f"{found['seeds']} seeds; mean ± standard deviation")


def markdown(found: dict[str, Any]) -> str:
    """What was measured, as a table of a results file."""
    return file_table(COLUMNS, _rows(found))


def _rows(found: dict[str, Any]) -> list[list[str]]:
    return [
        [
            way,
            mean_and_spread([line["parameters"] / 1e6 for line in lines], 3),
            mean_and_spread([line["macs"] / 1e9 for line in lines], 4),
            mean_and_spread([line["throughput"] for line in lines], 2),
            mean_and_spread([line["top1"] for line in lines], 2),
            ", ".join(f"{line['top1']:.2f}" for line in lines),
            f"{statistics.mean(line['pictures'] for line in lines):,.0f}",
            f"{statistics.mean(line['seconds'] for line in lines):,.0f}",
        ]
        for way, lines in found["ways"].items()
    ]
