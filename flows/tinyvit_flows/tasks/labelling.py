"""Tasks of teacher-logits: plan the missing units, label them, verify and seal the store, report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import current_process
from pathlib import Path
from typing import Any

from logitstore import Claims, LogitStore, Unit
from tinyvit.config import Recipe
from tinyvit.data.index import index_shards, open_index
from tinyvit.data.loader import default_workers
from tinyvit.errors import UserError
from tinyvit.labelling.label import Labeller, UnitReport, finish, open_for_labelling
from tinyvit.models.teachers import load_teacher
from tinyvit.reports.store_page import write_store_page
from tinyvit.runtime.gpu_lock import reserve_gpu
from tinyvit.runtime.progress import default_progress
from tinyvit.training.launch import default_processes
from tinyvit_flows.tasks.stopping import ONE_AT_A_TIME, stopping_with_the_flow
from tinyvit_flows.tasks.work import CPU, GPU_TAG, work

# Rows that the report looks at.
REPORTED_ROWS = 50_000


@work("plan units")
def plan_units(recipe: Recipe, store: str) -> list[Unit]:
    """Index the shards, make or open the store, and return the units that are missing."""
    # On the CPU: a GPU that this process took would be missing where the work is done.
    teacher = load_teacher(recipe.label.teacher, CPU, recipe.label.classes, recipe.label.input_size)
    index = index_shards(recipe.data.train, default_progress())
    return open_for_labelling(recipe, store, teacher, index).missing()


@work("label units", tags=[GPU_TAG])
def label_group(recipe: Recipe, store: str, units: list[Unit]) -> dict[str, float]:
    """Label those of these units that are still missing and that no other run has; returns counts and seconds."""
    opened = LogitStore.open(store)
    todo = [unit for unit in units if not opened.committed(unit)]
    if not todo:
        return _totals([])
    with _labeller(recipe, opened) as labeller:
        return _totals(list(labeller.label(todo)))


@work("label the rest", tags=[GPU_TAG])
def label_rest(recipe: Recipe, store: str) -> dict[str, float]:
    """Wait for what other runs have claimed, and label what they leave; returns counts and seconds."""
    opened = LogitStore.open(store)
    with _labeller(recipe, opened) as labeller:
        return _totals(list(labeller.label_missing(opened.units())))


def _totals(reports: list[UnitReport]) -> dict[str, float]:
    return {
        "units": len(reports),
        "views": sum(report.views for report in reports),
        "invalid": sum(report.invalid for report in reports),
        "seconds": sum(report.seconds for report in reports),
    }


@work("verify and seal")
def seal_store(store: str) -> str:
    """Read everything back and seal; returns when the store was sealed."""
    opened = LogitStore.open(store)
    if not opened.sealed:
        with Claims(opened) as claims:
            finish(opened, default_progress(), claims)
    return LogitStore.open(store).sealed


@work("write report")
def report_store(page: Path, store: str, data: str) -> dict[str, Any]:
    """The page about a store and the shards it was made from."""
    return write_store_page(page, LogitStore.open(store), data, REPORTED_ROWS, 0, default_progress())


@contextmanager
def _labeller(recipe: Recipe, store: LogitStore) -> Iterator[Labeller]:
    """What labels in this process; one at a time, whatever threads a cluster's worker has."""
    if current_process().daemon:
        raise UserError(
            "this worker process may start no data processes; start Dask's workers with --no-nanny, "
            "or with distributed.worker.daemon: False"
        )
    teacher = load_teacher(recipe.label.teacher, reserve_gpu(), recipe.label.classes, recipe.label.input_size)
    with ONE_AT_A_TIME, Claims(store) as claims, stopping_with_the_flow() as stop:
        # A machine's GPUs, each with a process, share its cores.
        workers = default_workers(default_processes())
        # `plan_units` has looked at every shard: the tasks after it need not.
        index = open_index(recipe.data.train, default_progress())
        yield Labeller(store, recipe, teacher, index, workers, default_progress(), claims, stop)
