"""Labelling on other processes and on clusters: the same store, whatever dies on the way."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from client import (
    BIN,
    ask,
    ended,
    free_port,
    pool_processes,
    prefect,
    processes,
    run_deployment,
    running,
    wait_for,
)
from support import MANY_UNITS, ROOT, label_all, left_running, marked_environment
from toy import assert_equal_stores

from logitstore import LogitStore
from tinyvit.config import load_recipe
from tinyvit.data.location import resolve_data
from tinyvit.errors import UserError
from tinyvit.models.teachers import Teacher
from tinyvit_flows.runners import Kind, started_runner


@contextmanager
def started(server: dict[str, str], mark: str, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command as a process while the context lasts."""
    environment = {**marked_environment(mark), **server}
    run = subprocess.Popen([BIN / command[0], *command[1:]], env=environment, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        yield run
    finally:
        run.terminate()
        run.wait(30)


@pytest.fixture
def dask(server: dict[str, str], tmp_path: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """A scheduler with two workers: its address, and what kills one of them."""
    address, name = f"tcp://127.0.0.1:{(port := free_port())}", str(tmp_path)
    worker = ["dask", "worker", address, "--no-nanny", "--nthreads", "1", "--no-dashboard"]
    with ExitStack() as stack:
        scheduler = ["dask", "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
        stack.enter_context(started(server, name, *scheduler))
        first, _ = (stack.enter_context(started(server, name, *worker)) for _ in range(2))
        yield address, first.kill
    assert left_running(str(tmp_path)) == []


def label(server: dict[str, str], data: Path, store: Path, **parameters: object) -> str:
    """Begin to label sixteen units; the flow run, when the first is there."""
    asked = {"data": data, "store": store, "overrides": MANY_UNITS, "units_per_task": 2}
    run_deployment(server, "teacher-logits", **asked, **parameters)
    wait_for(lambda: any((store / "committed" / "c").rglob("*")), 120)
    assert len(LogitStore.open(store).missing()) > 8, "too fast to prove anything"
    return running(server, "teacher-logits")


def test_a_dask_worker_killed_with_9_costs_its_units_only(
    server: dict[str, str], dask: tuple[str, Callable[[], None]], small_data: Path, whole: LogitStore, tmp_path: Path
) -> None:
    address, kill = dask
    run = label(server, small_data, tmp_path / "s", runner="dask", address=address)
    kill()
    assert ended(server, run) == "COMPLETED"
    assert_equal_stores(LogitStore.open(tmp_path / "s"), whole)
    assert LogitStore.open(tmp_path / "s").sealed


@pytest.fixture
def ray(at_length: None, server: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """A Ray cluster of two nodes on this machine, each with one CPU; its address."""
    address = f"127.0.0.1:{free_port()}"
    # A folder with a short name: sockets lie in it.
    with ExitStack() as stack, TemporaryDirectory(prefix="ray") as folder:
        head = ["--head", "--port", address.partition(":")[2], "--node-ip-address", "127.0.0.1", "--temp-dir", folder]
        for place in ([*head, "--include-dashboard", "false"], ["--address", address]):
            stack.enter_context(started(server, str(tmp_path), "ray", "start", *place, "--num-cpus", "1", "--block"))
            wait_for(lambda: bool(processes(f"TINYVIT_TEST_MARK={tmp_path}", "raylet")))
        yield address


def test_a_ray_worker_killed_with_9_costs_its_units_only(
    server: dict[str, str], ray: str, small_data: Path, whole: LogitStore, tmp_path: Path
) -> None:
    run = label(server, small_data, tmp_path / "s", runner="ray", address=ray)
    (first, *_) = processes(f"TINYVIT_TEST_MARK={tmp_path}", "ray::label units")
    os.kill(first, signal.SIGKILL)
    assert ended(server, run) == "COMPLETED"
    assert_equal_stores(LogitStore.open(tmp_path / "s"), whole)


def test_a_process_of_the_pool_killed_with_9_costs_its_units_only(
    at_length: None, server: dict[str, str], small_data: Path, whole: LogitStore, tmp_path: Path
) -> None:
    run = label(server, small_data, tmp_path / "s", runner="processes", workers=2)
    first, _ = pool_processes(run)
    os.kill(first, signal.SIGKILL)
    assert ended(server, run) == "COMPLETED"
    assert_equal_stores(LogitStore.open(tmp_path / "s"), whole)


def test_cancelled_labelling_stops_within_seconds_and_goes_on(
    server: dict[str, str], small_data: Path, whole: LogitStore, teacher: Teacher, tmp_path: Path
) -> None:
    store = tmp_path / "s"
    run = label(server, small_data, store, runner="processes", workers=1)
    assert prefect(server, "flow-run", "cancel", run).returncode == 0
    wait_for(lambda: ask(server, f"flow_runs/{run}")["state"]["type"] == "CANCELLED", 30)
    assert pool_processes(run) == []
    assert 0 < len(LogitStore.open(store).missing()) < 16
    recipe = resolve_data(load_recipe("example", MANY_UNITS), small_data)
    assert_equal_stores(label_all(recipe, store, teacher), whole)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("threads", None, "tcp://127.0.0.1:1"), "leave address out"),
        (("threads", 2, None), "choose processes"),
        (("dask", None, "tcp://127.0.0.1:1"), "no Dask scheduler answers at tcp://127.0.0.1:1"),
    ],
)
def test_a_runner_that_cannot_be(arguments: tuple[Kind, int | None, str | None], line: str) -> None:
    with pytest.raises(UserError, match=line), started_runner(*arguments):
        pass
