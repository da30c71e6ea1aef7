"""Stage 1 as a flow: index -> plan the missing units -> label them -> verify -> seal -> report.

Its artifacts: progress by units, a table of figures, a plot of the teacher's confidence, a link to the report.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, get_client, get_run_logger
from prefect.artifacts import (
    create_image_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from logitstore import LogitStore, Unit
from tinyvit.config import Recipe, load_recipe
from tinyvit.data.location import resolve_data
from tinyvit.errors import UserError
from tinyvit.labelling.describe import describe
from tinyvit.reports.figures import confidence
from tinyvit.reports.sampled_rows import sample_rows
from tinyvit.runtime.progress import SilentProgress
from tinyvit_flows.runners import Kind, started_runner
from tinyvit_flows.tasks.faults import plain_fault
from tinyvit_flows.tasks.labelling import label_group, label_rest, plan_units, report_store, seal_store
from tinyvit_flows.tasks.work import link_to, result_of, result_or_loss

# For what is done here; labelling has a runner of its own.
RUNNER: Any = ThreadPoolTaskRunner(max_workers=1)
# Rows that the plot of the teacher's confidence is drawn from.
DRAWN_ROWS = 5000
# The deployment that may follow.
STUDENT = "distill-student/distill-student"


@flow(name="teacher-logits", task_runner=RUNNER, log_prints=True)
@plain_fault
def teacher_logits(
    recipe: str = "example",
    data: str | None = None,
    store: str | None = None,
    run_dir: str | None = None,
    overrides: list[str] | None = None,
    units_per_task: int = 8,
    runner: Kind = "threads",
    workers: int | None = None,
    address: str | None = None,
    then_distill: bool = False,
) -> dict[str, Any]:
    """Ask the teacher about every augmented view once and store the best classes.

    Args:
        recipe: name of a recipe, or the path of a .yaml file
        data: folder or URL of WebDataset shards, or one with train/ and val/ inside; default: the recipe's
        store: folder or URL where the logit store is made or completed; default: RUN_DIR/store
        run_dir: default: runs/RECIPE
        overrides: dotted overrides of the recipe, such as label.top_k=10
        units_per_task: units of work in one Prefect task
        runner: where tasks run: threads (this process), processes (one a GPU), dask or ray
        workers: how many processes, where they are started here; default: one a GPU
        address: of a Dask scheduler or a Ray cluster that is there
        then_distill: when the store is sealed, start the deployment distill-student on it
    """
    resolved = resolve_data(load_recipe(recipe, overrides or []), data)
    home = Path(run_dir or f"runs/{Path(recipe).stem}")
    path = store or str(home / "store")
    if then_distill:
        _require_student()
    units = plan_units.submit(resolved, path).result()
    reports = []
    while units:
        get_run_logger().info("%d units to label, %d in a task, into %s", len(units), units_per_task, path)
        with started_runner(runner, workers, address) as pool:
            reports += _label(pool, resolved, path, units, units_per_task)
            missing = LogitStore.open(path).missing()
            if len(missing) == len(units):
                # Other runs have them.
                reports.append(result_of(pool.submit(label_rest, {"recipe": resolved, "store": path})))
                missing = []
        units = missing
    sealed = seal_store.submit(path).result()
    summary = _summary(path, reports, sealed)
    page = home / "teacher-logits.html"
    link_to(report_store.submit(page, path, resolved.data.train), page, "teacher-logits-report")
    if then_distill:
        asked = {
            "recipe": recipe,
            "data": data,
            "store": path,
            "run_dir": str(home / "distilled"),
            "overrides": overrides,
        }
        run_deployment(STUDENT, parameters=asked, timeout=0, as_subflow=False)
    return summary


def _require_student() -> None:
    """Refuse before the work, not after it."""
    try:
        with get_client(sync_client=True) as client:
            client.read_deployment_by_name(STUDENT)
    except ObjectNotFound as fault:
        raise UserError(f"then_distill needs the deployment {STUDENT}: `make deploy` makes it") from fault


def _label(
    pool: TaskRunner[Any], recipe: Recipe, store: str, units: list[Unit], units_per_task: int
) -> list[dict[str, float]]:
    """Label units in tasks of a runner; what a lost worker had, is missing from the store and the reports."""
    progress = create_progress_artifact(progress=0.0, key="teacher-logits-progress", description=store)
    groups = [units[i : i + units_per_task] for i in range(0, len(units), units_per_task)]
    futures = [pool.submit(label_group, {"recipe": recipe, "store": store, "units": group}) for group in groups]
    reports, done = [], 0
    for group, future in zip(groups, futures, strict=True):
        report, fault = result_or_loss(future)
        if fault:
            # Perhaps it took the tasks of others along.
            get_run_logger().warning("a task was lost (%r); what it did not commit is labelled again", fault)
        else:
            reports.append(report)
        done += len(group)
        update_progress_artifact(
            progress,  # type: ignore[arg-type]
            progress=100 * done / len(units),
            description=f"{done:,} of {len(units):,} units into {store}",
        )
    return reports


def _summary(path: str, reports: list[Any], sealed: str) -> dict[str, Any]:
    seconds = sum(report["seconds"] for report in reports)
    views = sum(report["views"] for report in reports)
    facts = describe(LogitStore.open(path))
    summary = {
        "store": path,
        "units": facts["units"],
        "units_labelled_now": int(sum(report["units"] for report in reports)),
        "rows": facts["rows"],
        "rows_without_answer_now": int(sum(report["invalid"] for report in reports)),
        "views_per_s": round(views / seconds, 1) if seconds else 0.0,
        "bytes": facts["bytes"],
        "bytes_per_row": round(facts["bytes_per_row"], 2),
        "sealed": sealed,
    }
    create_table_artifact(
        table=[{"figure": name, "value": str(value)} for name, value in summary.items()],
        key="teacher-logits",
        description=f"Logit store {path}",
    )
    sampled = sample_rows(LogitStore.open(path), DRAWN_ROWS, 0, SilentProgress())
    if len(sampled):
        create_image_artifact(image_url=confidence(sampled).image, key="teacher-logits-confidence")
    return summary
