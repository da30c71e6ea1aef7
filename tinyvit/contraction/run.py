"""A search on this machine, one candidate after another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

from logitstore import LogitStore
from tinyvit.config import Recipe
from tinyvit.contraction.result import write_result
from tinyvit.contraction.rounds import Round
from tinyvit.contraction.search import Search
from tinyvit.data.index import ShardIndex
from tinyvit.runtime.distributed import World
from tinyvit.runtime.progress import Progress
from tinyvit.tasks.run import open_run
from tinyvit.tasks.signals import StoredSignals


def open_search(
    recipe: Recipe, folder: Path, store: LogitStore, index: ShardIndex, workers: int, progress: Progress,
    stop: Event | None = None, world: World | None = None,
) -> Search:  # fmt: skip
    """The search of a recipe on a store that was found to fit it and the shards, in a folder: a new one, or one to go
    on with.
    """
    run = open_run(recipe, folder.resolve(), [recipe.contract.stage], workers, progress, world, index)
    return Search(replace(run, signals=StoredSignals(store), stop=stop or Event()))


def contract(search: Search) -> dict[str, Any]:
    """Search to the end and write the result, which is returned in numbers. Stopped where the search's run was told."""

    def train_all(of: Round) -> None:
        for candidate in of.candidates:
            search.train(of.number, candidate.folder)

    return write_result(search.folder, search.run.recipe, search.contract(train_all))
