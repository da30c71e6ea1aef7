"""Contraction as a flow: decide on the candidates of a round -> train them side by side -> the best is the next.

Its artifacts: the path as a table and as a plot.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_image_artifact, create_table_artifact
from prefect.task_runners import ThreadPoolTaskRunner

from logitstore import LogitStore
from tinyvit.config import load_recipe
from tinyvit.contraction.result import write_result
from tinyvit.contraction.rounds import Round
from tinyvit.contraction.run import open_search
from tinyvit.data.index import open_index
from tinyvit.data.loader import default_workers
from tinyvit.data.location import resolve_data
from tinyvit.errors import UserError
from tinyvit.runtime.progress import default_progress
from tinyvit_flows.runners import Kind, started_runner
from tinyvit_flows.tasks.contraction import train_one
from tinyvit_flows.tasks.faults import plain_fault
from tinyvit_flows.tasks.training import check_store
from tinyvit_flows.tasks.work import result_or_loss

RUNNER: Any = ThreadPoolTaskRunner(max_workers=1)
# How often candidates whose process or machine was lost are trained again.
TRIES = 3


@flow(name="contract-student", task_runner=RUNNER, log_prints=True)
@plain_fault
def contract_student(
    recipe: str = "contract-example",
    data: str | None = None,
    store: str = "runs/example/store",
    run_dir: str | None = None,
    overrides: list[str] | None = None,
    runner: Kind = "threads",
    workers: int | None = None,
    address: str | None = None,
) -> dict[str, Any]:
    """Scale a student down, step by step, to the best one that meets a budget.

    Args:
        recipe: name of a recipe with a contract section, or the path of a .yaml file
        data: folder or URL of WebDataset shards, or one with train/ and val/ inside; default: the recipe's
        store: a sealed logit store, a folder or a URL: candidates learn from it and are scored on it
        run_dir: where every candidate is kept, and where a killed search goes on; default: runs/RECIPE
        overrides: dotted overrides of the recipe, such as contract.budget.parameters=5.4e+6
        runner: where candidates are trained: threads (one after another in this process), processes (one a GPU), dask
            or ray
        workers: how many processes, where they are started here; default: one a GPU
        address: of a Dask scheduler or a Ray cluster that is there
    """
    resolved = resolve_data(load_recipe(recipe, overrides or []), data)
    folder = Path(run_dir or f"runs/{Path(recipe).stem}")
    # Says what is wrong with the recipe before the store is read.
    _ = resolved.contract
    check_store.submit(resolved, store).result()
    opened = LogitStore.open(store)
    index = open_index(resolved.data.train, default_progress())
    search = open_search(resolved, folder, opened, index, default_workers(), default_progress())

    def unfinished(of: Round) -> list[str]:
        return [candidate.folder for candidate in of.candidates if not search.folder.score(candidate.folder)]

    def train_all(of: Round) -> None:
        lost: Exception | None = None
        for _ in range(TRIES):
            left = unfinished(of)
            if not left:
                return
            with started_runner(runner, workers, address) as pool:
                shared = {"recipe": resolved, "run_dir": folder, "store": store, "number": of.number}
                for future in [pool.submit(train_one, {**shared, "candidate": name}) for name in left]:
                    _, fault = result_or_loss(future)
                    if fault:
                        get_run_logger().warning("a candidate was lost (%r); what it saved is gone on with", fault)
                        lost = fault
        if unfinished(of):
            raise UserError(
                f"round {of.number} was not finished in {TRIES} tries ({lost!r}); mend that and start the flow again"
            )

    found = write_result(search.folder, resolved, search.contract(train_all))
    _publish(found)
    return found


def _publish(found: dict[str, Any]) -> None:
    lines = [
        {"round": str(of["round"]), "of": str(len(of["candidates"])), **_line(entry)}
        for of in found["rounds"]
        for entry in of["candidates"]
        if entry["chosen"]
    ]
    create_table_artifact(table=lines, key="contract-student", description=f"The student: {found['recipe']}")
    image = base64.b64encode(Path(found["picture"]).read_bytes()).decode()
    create_image_artifact(image_url=f"data:image/png;base64,{image}", key="contract-student-path")


def _line(entry: dict[str, Any]) -> dict[str, str]:
    return {
        "student": entry["student"],
        "M parameters": f"{entry['parameters'] / 1e6:.2f}",
        "throughput": f"{entry['throughput']:.2f}",
        "loss": f"{entry['loss']:.4f}",
        "agreement": f"{entry['agreement']:.1f} %",
    }
