"""Where plain functions become Prefect tasks: retries, caching, and how a fault of the user's ends.

Prefect's run state never decides what is done: the store and the run folder do. So nothing is cached here, and
a retried task finds by itself what is left to do.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import replace
from functools import wraps
from multiprocessing import current_process
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, ParamSpec, TypeVar, cast

import torch
from prefect import Task, get_client, get_run_logger
from prefect.artifacts import create_link_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import TaskRunContext
from prefect.exceptions import FailedRun
from prefect.futures import PrefectFuture
from prefect.states import Failed

from logitstore import Claims, LogitStore, StoreError, Unit
from tinyvit.config import Recipe
from tinyvit.contraction.run import open_search
from tinyvit.contraction.search import Search
from tinyvit.data.index import index_shards, open_index
from tinyvit.data.loader import default_workers
from tinyvit.errors import Stopped, UserError
from tinyvit.labelling.label import Labeller, UnitReport, finish, open_for_labelling
from tinyvit.labelling.verify_replay import open_for_training
from tinyvit.models.teachers import load_teacher
from tinyvit.reports.run_page import write_run_page
from tinyvit.reports.store_page import write_store_page
from tinyvit.runtime.distributed import World
from tinyvit.runtime.gpu_lock import reserve_gpu
from tinyvit.runtime.progress import default_progress
from tinyvit.tasks.run import open_run
from tinyvit.tasks.signals import StoredSignals
from tinyvit.training.launch import Ranks, default_processes, train_on_devices
from tinyvit.training.train import refuse_stage, train_stage
from tinyvit.transfer.scorecard import score_all
from tinyvit.transfer.scorer import Scorer

# Prefect passes on what the package logs (prefect.toml, extra_loggers), but leaves its level at WARNING.
logging.getLogger("tinyvit").setLevel(logging.INFO)

P = ParamSpec("P")
R = TypeVar("R")

# The name of the state in which a run ends that the user has to mend something for.
BAD_INPUT = "Bad input"
# That of a task which was told to stop and has saved how far it was.
SAVED = "Stopped and saved"

# Set when this process is told to stop: training then saves at its next step. One for the process, as its tasks are
# threads of it, to which Prefect passes parameters by copying them.
STOPPING = Event()
# Of what needs a GPU: `prefect concurrency-limit create gpu 8` lets eight such tasks run at once, whoever started them.
GPU_TAG = "gpu"
# Tasks, and the flow with them, are sent to other processes with the globals that they name: none of these may be a
# lock, or torch itself (cloudpickle takes `x.classes` for torch.classes, which cannot be sent).
CPU = torch.device("cpu")
# A process has one teacher, and one state of the generators.
ONE_AT_A_TIME = Lock()
# How often a task asks whether its flow run goes on.
ASK_SECONDS = 3.0
# What the reports at a flow's end look at.
REPORTED_ROWS, REPORTED_VIEWS = 50_000, 2000
# Prefect kills what has not ended 30 seconds after it was cancelled.
SECONDS_TO_SAVE = 20.0


def plain_fault(function: Callable[P, R]) -> Callable[P, R]:
    """End in a Failed state with one line, without traceback and retries, where the input is at fault.

    A submitted task's `result()` then raises FailedRun with that line; a task that is called returns the state.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (UserError, StoreError, FailedRun) as fault:
            return cast(R, Failed(name=BAD_INPUT, message=str(fault)))
        except Stopped as stop:
            return cast(R, Failed(name=SAVED, message=str(stop)))

    # With the types themselves: Prefect would look their names up in this module.
    run.__signature__ = inspect.signature(function, eval_str=True)  # type: ignore[attr-defined]
    return run


def _may_heal(_task: Any, _run: Any, state: State[Any]) -> bool:
    """A file server that did not answer, a GPU that fell over: a second try may do. Bad input it never mends."""
    return state.name not in (BAD_INPUT, SAVED)


def result_of(future: PrefectFuture[Any]) -> Any:
    """A task's result. Where the flow is cancelled meanwhile, the task has time to save before the process ends."""
    # A process may run a flow again after one that was interrupted.
    STOPPING.clear()
    try:
        return future.result()
    except FailedRun:
        if future.state.name == SAVED:
            # The task asked the server, and knew of the cancellation before this process is told, which is now.
            time.sleep(SECONDS_TO_SAVE)
        raise
    except BaseException as end:
        if not isinstance(end, Exception):
            STOPPING.set()
            # A pool whose processes had the same signal has broken by now.
            with suppress(Exception):
                future.wait(SECONDS_TO_SAVE)
        raise


def result_or_loss(future: PrefectFuture[Any]) -> tuple[Any, Exception | None]:
    """A task's result, or what became of the process that had it. FailedRun for a task that failed by itself."""
    try:
        return result_of(future), None
    except FailedRun:
        raise
    except Exception as fault:
        # Each kind of runner says in its own way that something died.
        return None, fault


def work(name: str, run_name: str | None = None, tags: Sequence[str] = ()) -> Callable[[Callable[P, R]], Task[P, R]]:
    """A function as a task; `run_name` may name its parameters in braces."""

    def as_task(function: Callable[P, R]) -> Task[P, R]:
        return Task(
            plain_fault(function),
            name=name,
            task_run_name=run_name,
            tags=tags,
            cache_policy=NO_CACHE,
            retries=2,
            retry_delay_seconds=10,
            retry_condition_fn=_may_heal,
        )

    return as_task


@contextmanager
def _stopping_with_the_flow() -> Iterator[Event]:
    """An event that is set when this process is told to stop, or when the server says that the flow run is to end.

    For tasks in other processes and on other machines, which no signal reaches.
    """
    context, stop, over = TaskRunContext.get(), Event(), Event()
    assert context is not None
    flow_run = context.task_run.flow_run_id

    def watch() -> None:
        # At once: tasks that waited for their turn may be shorter than the time between two questions.
        asked = -ASK_SECONDS
        with get_client(sync_client=True) as client:
            while not over.wait(0.2) and not stop.is_set():
                if STOPPING.is_set():
                    stop.set()
                elif flow_run and time.monotonic() - asked > ASK_SECONDS:
                    # A server that does not answer stops nothing.
                    with suppress(Exception):
                        state = client.read_flow_run(flow_run).state
                        if state and (state.is_cancelling() or state.is_final()):
                            stop.set()
                    asked = time.monotonic()

    # The thread asks the server that this task reports to.
    thread = Thread(target=copy_context().run, args=(watch,), daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        over.set()


@contextmanager
def _labeller(recipe: Recipe, store: LogitStore) -> Iterator[Labeller]:
    """What labels in this process; one at a time, whatever threads a cluster's worker has."""
    if current_process().daemon:
        raise UserError(
            "this worker process may start no data processes; start Dask's workers with --no-nanny, "
            "or with distributed.worker.daemon: False"
        )
    teacher = load_teacher(recipe.label.teacher, reserve_gpu(), recipe.label.classes, recipe.label.input_size)
    with ONE_AT_A_TIME, Claims(store) as claims, _stopping_with_the_flow() as stop:
        # A machine's GPUs, each with a process, share its cores.
        workers = default_workers(default_processes())
        # `plan_units` has looked at every shard: the tasks after it need not.
        index = open_index(recipe.data.train, default_progress())
        yield Labeller(store, recipe, teacher, index, workers, default_progress(), claims, stop)


@contextmanager
def _search(recipe: Recipe, run_dir: Path, store: str) -> Iterator[Search]:
    """The search that this process trains a candidate of, on a device of its own; one at a time here too."""
    with ONE_AT_A_TIME, _stopping_with_the_flow() as stop:
        world, workers = World(device=reserve_gpu()), default_workers(default_processes())
        yield open_search(recipe, run_dir, LogitStore.open(store), workers, default_progress(), stop, world)


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


@work("write report")
def report_run(page: Path, stages: dict[str, Path]) -> dict[str, Any]:
    """The page about stages of training."""
    return write_run_page(page, stages, None, None, REPORTED_VIEWS, 0, default_progress())


def link_to(future: PrefectFuture[Any], page: Path, key: str) -> None:
    """An artifact that leads to a page which a task was to write; work that is done does not fail for want of it."""
    try:
        future.result()
    except Exception as fault:
        get_run_logger().warning("the report %s was not written (%s)", page, fault)
        return
    create_link_artifact(key=key, link=page.resolve().as_uri(), link_text=str(page), description="The report")


@work("check store")
def check_store(recipe: Recipe, store: str) -> str:
    """Refuse a store that does not fit the recipe, the shards or the libraries; returns when it was sealed."""
    index = index_shards(recipe.data.train, default_progress())
    return open_for_training(recipe, store, index, default_workers()).sealed


@work("check stages")
def check_later_stages(recipe: Recipe, run_dir: Path, store: str | None, names: list[str]) -> None:
    """Refuse a stage that could not begin once those before it are done."""
    run = open_run(recipe, run_dir, names, default_workers(), default_progress(), World(device=CPU))
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
    run = open_run(recipe, run_dir, [name], default_workers(), default_progress())
    run = replace(run, signals=StoredSignals(opened) if opened else None, stop=STOPPING)
    return train_stage(run, name, run_dir / before[-1] if before else None)


@work("train candidate", run_name="train {candidate}", tags=[GPU_TAG])
def train_one(recipe: Recipe, run_dir: Path, store: str, number: int, candidate: str) -> None:
    """Train and score a candidate of a round of contraction, or go on with what a lost try has saved."""
    with _search(recipe, run_dir, store) as search:
        search.train(number, candidate)


@work("scorer network", run_name="scorer {checkpoint}", tags=[GPU_TAG])
def judge_network(
    run_dir: Path, seed: int, checkpoint: str, data: dict[str, str], sets: str | None, measures: tuple[str, ...]
) -> None:
    """Measure all of one network, or what a lost try has left; the folder keeps it."""
    score_all(Scorer.here(run_dir, seed, default_workers(), default_progress()), checkpoint, data, sets, measures)
