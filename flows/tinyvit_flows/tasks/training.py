"""Tasks of distill-student: check the store and the stages, train them one after the other, report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from logitstore import LogitStore
from tinyvit.config import Recipe
from tinyvit.data.index import ShardIndex, index_shards, open_index
from tinyvit.data.loader import default_workers
from tinyvit.labelling.verify_replay import open_for_training
from tinyvit.reports.run_page import write_run_page
from tinyvit.runtime.distributed import World
from tinyvit.runtime.progress import default_progress
from tinyvit.tasks.run import open_run
from tinyvit.tasks.signals import StoredSignals
from tinyvit.training.launch import Ranks, train_on_devices
from tinyvit.training.train import refuse_stage, train_stage
from tinyvit_flows.tasks.stopping import STOPPING
from tinyvit_flows.tasks.work import CPU, GPU_TAG, work

# Views that the report looks at.
REPORTED_VIEWS = 2000


@work("check store")
def check_store(recipe: Recipe, store: str) -> str:
    """Refuse a store that does not fit the recipe, the shards or the libraries; returns when it was sealed."""
    index = index_shards(recipe.data.train, default_progress())
    return open_for_training(recipe, store, index, default_workers()).sealed


@work("check stages")
def check_later_stages(recipe: Recipe, run_dir: Path, store: str | None, names: list[str]) -> None:
    """Refuse a stage that could not begin once those before it are done."""
    index = _checked_index(recipe) if store else None
    run = open_run(recipe, run_dir, names, default_workers(), default_progress(), World(device=CPU), index)
    run = replace(run, signals=StoredSignals(LogitStore.open(store)) if store else None)
    for name in names[1:]:
        refuse_stage(run, name)


@work("train stage", run_name="train {name}", tags=[GPU_TAG])
def run_stage(
    recipe: Recipe, run_dir: Path, store: str | None, name: str, before: list[str], ranks: Ranks
) -> dict[str, Any]:
    """One training stage after those `before`, resumed where an earlier try stopped; returns its result."""
    if not ranks.alone:
        return train_on_devices(recipe, run_dir, [*before, name], store, ranks, STOPPING)
    opened = LogitStore.open(store) if store else None
    index = _checked_index(recipe)
    run = open_run(recipe, run_dir, [name], default_workers(), default_progress(), index=index)
    run = replace(run, signals=StoredSignals(opened) if opened else None, stop=STOPPING)
    return train_stage(run, name, run_dir / before[-1] if before else None)


@work("write report")
def report_run(page: Path, stages: dict[str, Path]) -> dict[str, Any]:
    """The page about stages of training."""
    return write_run_page(page, stages, None, None, REPORTED_VIEWS, 0, default_progress())


def _checked_index(recipe: Recipe) -> ShardIndex | None:
    """The index that a check before has made, so that the shards are not looked at again; detection has none."""
    return None if recipe.detection else open_index(recipe.data.train, default_progress())
