"""What Prefect adds to labelling: so many tasks whose units are there already, against a real server on SQLite."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import ThreadPoolTaskRunner

from logitstore import LogitStore, Unit
from tinyvit.config import Recipe
from tinyvit_flows.server import HOST, local_server
from tinyvit_flows.tasks.labelling import label_group

RUNNER: Any = ThreadPoolTaskRunner(max_workers=1)


def measure(recipe: Recipe, store: Path, tasks: int, folder: Path) -> dict[str, float]:
    """Seconds in all and milliseconds a task of a flow run that has nothing to label; bytes of the database for it."""
    home, units = folder / "prefect", LogitStore.open(store).units()[:1]
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    with local_server(port, home), temporary_settings(updates={PREFECT_API_URL: f"http://{HOST}:{port}/api"}):
        before, began = _database(home), time.perf_counter()
        _nothing(recipe, str(store), units, tasks)
        seconds = time.perf_counter() - began
        size = 0
        # Events and logs are written a little later.
        while size != (size := _database(home)):
            time.sleep(5)
    return {
        "tasks": tasks,
        "seconds": seconds,
        "milliseconds_a_task": 1000 * seconds / tasks,
        "database_bytes": size - before,
        "bytes_a_task": (size - before) / tasks,
    }


@flow(name="nothing-to-label", task_runner=RUNNER)
def _nothing(recipe: Recipe, store: str, units: list[Unit], tasks: int) -> None:
    for future in [label_group.submit(recipe, store, units) for _ in range(tasks)]:
        future.result()


def _database(home: Path) -> int:
    return sum(file.stat().st_size for file in home.glob("prefect.db*"))
