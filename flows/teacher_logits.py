"""Stage 1 as a flow: index -> plan the missing units -> label them -> verify -> seal -> artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.task_runners import ThreadPoolTaskRunner

from flows.tasks import label_group, label_rest, plain_fault, plan_units, seal_store
from storage import LogitStore
from tinyvit.config import load_recipe
from tinyvit.store_facts import describe

# One task at a time: a process holds one teacher, and the generators that replay seeds are the process's.
RUNNER: Any = ThreadPoolTaskRunner(max_workers=1)


@flow(name="teacher-logits", task_runner=RUNNER, log_prints=True)
@plain_fault
def teacher_logits(
    recipe: str = "example",
    data: str | None = None,
    store: str | None = None,
    run_dir: str | None = None,
    overrides: list[str] | None = None,
    units_per_task: int = 8,
) -> dict[str, Any]:
    """Ask the teacher about every augmented view once and store the best classes.

    Args:
        recipe: name of a recipe, or the path of a .yaml file
        data: folder of WebDataset shards, or one with train/ and val/ inside; default: the recipe's
        store: folder or URL where the logit store is made or completed; default: RUN_DIR/store
        run_dir: default: runs/RECIPE
        overrides: dotted overrides of the recipe, such as label.top_k=10
        units_per_task: units of work in one Prefect task
    """
    resolved = load_recipe(recipe, overrides or []).with_data(data)
    path = store or str(Path(run_dir or f"runs/{Path(recipe).stem}") / "store")
    units = plan_units.submit(resolved, path).result()
    groups = [units[i : i + units_per_task] for i in range(0, len(units), units_per_task)]
    get_run_logger().info("%d units to label in %d tasks, into %s", len(units), len(groups), path)
    progress = create_progress_artifact(progress=0.0, key="teacher-logits-progress", description=str(path))
    futures = [label_group.submit(resolved, path, group) for group in groups]
    reports = []
    for number, future in enumerate(futures, 1):
        reports.append(future.result())
        update_progress_artifact(progress, progress=100 * number / len(futures))  # type: ignore[arg-type]
    if LogitStore.open(path).missing():
        reports.append(label_rest.submit(resolved, path).result())
    sealed = seal_store.submit(path).result()
    return _summary(path, reports, sealed)


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
    return summary
