"""A search on this machine, one candidate after another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

from tinyvit.config import Recipe
from tinyvit.contraction.result import write_result
from tinyvit.contraction.rounds import Round
from tinyvit.contraction.search import Search
from tinyvit.progress import Progress
from tinyvit.replay_check import open_for_training
from tinyvit.training.run import open_run


def open_search(
    recipe: Recipe, folder: Path, store: str, workers: int, progress: Progress, stop: Event | None = None
) -> Search:
    """The search of a recipe in a folder, new or gone on with. UserError for a store that does not fit."""
    # Asked first: it says what is missing before anything is read.
    plan = recipe.contract
    opened = open_for_training(recipe, store, workers, progress)
    run = open_run(recipe, folder.resolve(), [plan.stage], workers, progress)
    return Search(replace(run, store=opened, stop=stop or Event()))


def contract(search: Search) -> dict[str, Any]:
    """Search to the end and write the result, which is returned in numbers. Stopped where the search's run was told."""

    def train_all(of: Round) -> None:
        for candidate in of.candidates:
            search.train(of.number, candidate.folder)

    return write_result(search.folder, search.run.recipe, search.contract(train_all))
