"""Where plain functions become Prefect tasks: retries, caching, and what their end means to the flow.

Prefect's run state never decides what is done: the store and the run folder do. So nothing is cached here, and
a retried task finds by itself what is left to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from prefect import Task, get_run_logger
from prefect.artifacts import create_link_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import FailedRun
from prefect.futures import PrefectFuture

from tinyvit_flows.tasks.faults import BAD_INPUT, SAVED, plain_fault
from tinyvit_flows.tasks.stopping import STOPPING

P = ParamSpec("P")
R = TypeVar("R")

# Of what needs a GPU: `prefect concurrency-limit create gpu 8` lets eight such tasks run at once, whoever started them.
GPU_TAG = "gpu"
# Tasks are sent to other processes with the globals that they name: none of these may be a lock, or torch itself
# (cloudpickle takes `x.classes` for torch.classes, which cannot be sent).
CPU = torch.device("cpu")
# Prefect kills what has not ended 30 seconds after it was cancelled.
SECONDS_TO_SAVE = 20.0


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


def link_to(future: PrefectFuture[Any], page: Path, key: str) -> None:
    """An artifact that leads to a page which a task was to write; work that is done does not fail for want of it."""
    try:
        future.result()
    except Exception as fault:
        get_run_logger().warning("the report %s was not written (%s)", page, fault)
        return
    create_link_artifact(key=key, link=page.resolve().as_uri(), link_text=str(page), description="The report")
