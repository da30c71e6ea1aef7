"""What a search found: a recipe of the student, the path to it in numbers, and a plot of it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from logitstore import write_whole
from tinyvit.config import Recipe
from tinyvit.contraction.rounds import TRAIN, Candidate, Round, Score, SearchFolder
from tinyvit.reports.plot import BLUE, RED
from tinyvit.training.folder import write_json

STUDENT, PATH, PLOT = "student.yaml", "path.json", "path.png"
QUIET = "#8a8a8a"

Figures = Callable[[Candidate], float]
Axis = tuple[Figures, float, str]


def write_result(folder: SearchFolder, recipe: Recipe, rounds: Sequence[Round]) -> dict[str, Any]:
    """Write the three files; returns the path in numbers: every candidate of every round, and which was chosen."""
    found, first = rounds[-1].best, rounds[0].best
    document = {
        "student": found.point.name,
        "recipe": str(folder.path / STUDENT),
        "picture": str(folder.path / PLOT),
        "candidates_trained": sum(len(of.candidates) for of in rounds),
        "networks_measured": sum(of.measured for of in rounds),
        "images_trained_on": sum(c.score.images for of in rounds for c in of.candidates if c.score),
        "rounds": [
            {
                "round": of.number,
                "bounds": of.bounds,
                "measured": of.measured,
                "candidates": [{**_entry(c), "chosen": c is of.best} for c in of.candidates],
            }
            for of in rounds
        ],
    }
    write_whole(folder.path / STUDENT, _recipe_file(folder, recipe, found, first).encode())
    write_whole(folder.path / PLOT, draw(rounds))
    write_json(folder.path / PATH, document)
    return document


def _entry(candidate: Candidate) -> dict[str, Any]:
    assert candidate.score
    return {
        "student": candidate.point.name,
        "point": asdict(candidate.point),
        "folder": candidate.folder,
        **{name: value for name, value in candidate.costs.as_dict().items() if value is not None},
        **asdict(candidate.score),
    }


def _recipe_file(folder: SearchFolder, recipe: Recipe, found: Candidate, first: Candidate) -> str:
    """The recipe as it was, with the student that was found and without the search."""
    assert found.score
    student = found.point.student(recipe.student, None)
    whole = recipe.model_copy(update={"student": student, "contraction": None})
    head = [
        f"The student that `tinyvit contract` found: {found.point.name}.",
        f"It has {found.costs.parameters / 1e6:.2f} M parameters and {found.costs.macs / 1e9:.3f} G multiply-adds "
        f"where the first one, {first.point.name}, had {first.costs.parameters / 1e6:.2f} M and "
        f"{first.costs.macs / 1e9:.3f} G, and {found.costs.throughput:.2f} times its throughput.",
        f"Result: after its short training {found.score.agreement:.1f} % agreement with the teacher on "
        f"{found.score.views:,} views that were held out.",
        f"  tinyvit train {folder.path / STUDENT} --store STORE --run-dir RUN",
        f"To begin with the weights of the search: --set student.checkpoint={folder.path / found.folder / TRAIN}",
    ]
    return "".join(f"# {line}\n" for line in head) + yaml.safe_dump(whole.record(), sort_keys=False)


def _parameters(candidate: Candidate) -> float:
    return candidate.costs.parameters / 1e6


def _throughput(candidate: Candidate) -> float:
    assert candidate.costs.throughput
    return candidate.costs.throughput


def _score(candidate: Candidate) -> Score:
    assert candidate.score
    return candidate.score


# What a student is worth: the figure that is drawn, -1 where less is better, and what it is called.
WORTHS: tuple[Axis, ...] = (
    (lambda candidate: _score(candidate).loss, -1.0, "loss on views held out [nat]"),
    (lambda candidate: _score(candidate).agreement, 1.0, "agreement with the teacher, views held out [%]"),
)
# Of a cost: the figure that is drawn, 1 where more is worse, and what it is called.
COSTS: tuple[Axis, ...] = (
    (_parameters, 1.0, "parameters [millions]"),
    (_throughput, -1.0, "throughput, as a multiple of the first student's"),
)


def draw(rounds: Sequence[Round]) -> bytes:
    """Loss and agreement over parameters and throughput, as a PNG: the path, what was rejected, and the front.

    The loss is what decides; the agreement is what people ask for.
    """
    figure = Figure(figsize=(10, 8), layout="constrained")
    panels = figure.subplots(2, 2, sharex="col", sharey="row")
    for row, worth in zip(panels, WORTHS, strict=True):
        for axes, cost in zip(row, COSTS, strict=True):
            _panel(axes, rounds, cost, worth)
    # Better is up, and further on the way is to the right.
    panels[0][0].invert_xaxis()
    panels[0][0].invert_yaxis()
    panels[0][0].legend(frameon=False, fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _panel(axes: Axes, rounds: Sequence[Round], cost: Axis, worth: Axis) -> None:
    (x, _, across), (y, _, up) = cost, worth
    everyone = [candidate for of in rounds for candidate in of.candidates]
    path = [of.best for of in rounds]
    styles: tuple[tuple[list[Candidate], dict[str, Any], str], ...] = (
        (_front(everyone, cost, worth), {"color": RED, "lw": 1, "ls": "--", "zorder": 1}, "front"),
        ([c for c in everyone if c not in path], {"color": QUIET, "ls": "", "marker": ".", "zorder": 2}, "rejected"),
        (path, {"color": BLUE, "marker": "o", "zorder": 3}, "path, by rounds"),
    )
    for chosen, style, label in styles:
        axes.plot([x(c) for c in chosen], [y(c) for c in chosen], label=label, **style)
    for of in rounds:
        place = (x(of.best), y(of.best))
        axes.annotate(
            str(of.number), place, textcoords="offset points", xytext=(0, 7), ha="center", fontsize=8, color=BLUE
        )
    axes.set(xlabel=across, ylabel=up)
    axes.label_outer()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _front(candidates: Sequence[Candidate], cost: Axis, worth: Axis) -> list[Candidate]:
    """Those that no other is worth more than at the same cost or less, the cheapest first."""
    (x, more, _), (y, better, _) = cost, worth
    front: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (more * x(c), -better * y(c))):
        if not front or better * y(candidate) > better * y(front[-1]):
            front.append(candidate)
    return front
