"""Task of contract-student: train a candidate of a round."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from logitstore import LogitStore
from tinyvit.config import Recipe
from tinyvit.contraction.run import open_search
from tinyvit.contraction.search import Search
from tinyvit.data.index import open_index
from tinyvit.data.loader import default_workers
from tinyvit.runtime.distributed import World
from tinyvit.runtime.gpu_lock import reserve_gpu
from tinyvit.runtime.progress import default_progress
from tinyvit.training.launch import default_processes
from tinyvit_flows.tasks.stopping import ONE_AT_A_TIME, stopping_with_the_flow
from tinyvit_flows.tasks.work import GPU_TAG, work


@work("train candidate", run_name="train {candidate}", tags=[GPU_TAG])
def train_one(recipe: Recipe, run_dir: Path, store: str, number: int, candidate: str) -> None:
    """Train and score a candidate of a round of contraction, or go on with what a lost try has saved."""
    with _search(recipe, run_dir, store) as search:
        search.train(number, candidate)


@contextmanager
def _search(recipe: Recipe, run_dir: Path, store: str) -> Iterator[Search]:
    """The search that this process trains a candidate of, on a device of its own; one at a time here too."""
    with ONE_AT_A_TIME, stopping_with_the_flow() as stop:
        world, workers = World(device=reserve_gpu()), default_workers(default_processes())
        opened, index = LogitStore.open(store), open_index(recipe.data.train, default_progress())
        yield open_search(recipe, run_dir, opened, index, workers, default_progress(), stop, world)
