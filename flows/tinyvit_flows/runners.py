"""Where the tasks of labelling run: in this process, in one process a GPU, or on a cluster that is there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Literal

from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from tinyvit.data.processes import ending_with_this
from tinyvit.errors import UserError
from tinyvit.training.launch import default_processes

Kind = Literal["threads", "processes", "dask", "ray"]


@contextmanager
def started_runner(kind: Kind, workers: int | None, address: str | None) -> Iterator[TaskRunner[Any]]:
    """A runner that takes tasks: `workers` processes of this machine (default: one a GPU), or a cluster at `address`.

    UserError for an address that means nothing to the kind or where nothing answers, and for a package that is missing.
    """
    if address and kind not in ("dask", "ray"):
        raise UserError(f"runner={kind} works on this machine: leave address out, or choose dask or ray")
    if workers and (address or kind == "threads"):
        raise UserError(f"workers={workers} is for processes that are started here: leave it out, or choose processes")
    count = workers or default_processes()
    if kind == "threads":
        # One at a time: a process has one teacher.
        threads: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=1)
        with threads:
            yield threads
    elif kind == "processes":
        with ProcessPoolTaskRunner(max_workers=count, initializer=ending_with_this()) as processes:
            yield processes
    else:
        package = f"prefect_{kind}"
        if not find_spec(package):
            raise UserError(f"runner={kind} needs the package {package}: pip install 'tinyvit-distill[{kind}]'")
        with _dask(count, address) if kind == "dask" else _ray(count, address) as cluster:
            yield cluster


@contextmanager
def _dask(count: int, address: str | None) -> Iterator[TaskRunner[Any]]:
    import dask
    from prefect_dask import DaskTaskRunner

    if not address:
        # A daemon may have no data processes of its own.
        dask.config.set({"distributed.worker.daemon": False})
        runner = DaskTaskRunner(cluster_kwargs={"n_workers": count, "threads_per_worker": 1})
    else:
        runner = DaskTaskRunner(address=address)
    with runner:
        try:
            # Connects, which entering does not.
            _ = runner.client
        except OSError as fault:
            raise UserError(f"no Dask scheduler answers at {address}; start it, or mend the address") from fault
        yield runner


@contextmanager
def _ray(count: int, address: str | None) -> Iterator[TaskRunner[Any]]:
    import ray
    from prefect_ray import RayTaskRunner
    from prefect_ray.context import remote_options

    # Ray hides every GPU from a task that asks for none, and by default ends a process with a GPU after each task,
    # and the teacher in it.
    try:
        runner = RayTaskRunner(address=address) if address else RayTaskRunner(init_kwargs={"num_cpus": count})
        with runner:
            gpus = min(1, ray.cluster_resources().get("GPU", 0))
            with remote_options(num_cpus=1, num_gpus=gpus, max_calls=0):
                yield runner
    except ConnectionError as fault:
        raise UserError(f"no Ray cluster answers at {address}; start it, or mend the address") from fault
