"""Stage 2 as a flow: check the sealed store -> train the recipe's stages -> artifacts: curves, accuracy, report."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_image_artifact, create_markdown_artifact
from prefect.task_runners import ThreadPoolTaskRunner

from tinyvit.config import load_recipe
from tinyvit.data.location import resolve_data
from tinyvit.reports.run_figures import curves_png
from tinyvit.reports.stages import StageRun
from tinyvit.training.launch import Ranks, default_processes
from tinyvit.training.run import check_stages
from tinyvit_flows.tasks.faults import plain_fault
from tinyvit_flows.tasks.training import check_later_stages, check_store, report_run, run_stage
from tinyvit_flows.tasks.work import link_to, result_of

RUNNER: Any = ThreadPoolTaskRunner(max_workers=1)


@flow(name="distill-student", task_runner=RUNNER, log_prints=True)
@plain_fault
def distill_student(
    recipe: str = "example",
    data: str | None = None,
    store: str | None = None,
    run_dir: str | None = None,
    overrides: list[str] | None = None,
    stages: list[str] | None = None,
    processes: int | None = None,
    nodes: int = 1,
    rendezvous: str | None = None,
) -> dict[str, Any]:
    """Train a student on stored logits, on labels, or on one after the other, with no teacher in memory.

    Args:
        recipe: name of a recipe, or the path of a .yaml file
        data: folder or URL of WebDataset shards, or one with train/ and val/ inside; default: the recipe's
        store: a sealed logit store, a folder or a URL; default: runs/RECIPE/store
        run_dir: checkpoints and metrics, and where a killed run goes on; default: runs/RECIPE/distilled
        overrides: dotted overrides of the recipe, such as stages.distill.epochs=3
        stages: run only these stages of the recipe, in this order
        processes: how many train together on this machine; default: one a GPU
        nodes: machines that train together, each by a run of this flow with the same parameters, in one run_dir
        rendezvous: where they meet, HOST:PORT on one of them
    """
    resolved = resolve_data(load_recipe(recipe, overrides or []), data)
    names = stages or list(resolved.stages)
    check_stages(resolved, names)
    home = Path(f"runs/{Path(recipe).stem}")
    folder = Path(run_dir) if run_dir else home / "distilled"
    path = None
    if any(resolved.stages[name].target == "teacher" for name in names):
        path = store or str(home / "store")
        check_store.submit(resolved, path).result()
    check_later_stages.submit(resolved, folder, path, names).result()
    results: dict[str, Any] = {}
    ranks = Ranks(processes or default_processes(), nodes, rendezvous)
    for number, name in enumerate(names):
        results[name] = result_of(run_stage.submit(resolved, folder, path, name, names[:number], ranks))
    _publish(folder, results)
    page = folder / "report.html"
    link_to(report_run.submit(page, {name: folder / name for name in results}), page, "distill-student-report")
    return results


def _publish(folder: Path, results: dict[str, Any]) -> None:
    lines = ["| stage | epochs | images/s | loss | top-1 or AP % |", "| --- | --- | --- | --- | --- |"]
    for name, result in results.items():
        val = result["val"] or {}
        found = next((f"{val[name]:.1f}" for name in ("top1", "ap") if val.get(name) is not None), "")
        last = result["last"]
        lines.append(f"| {name} | {result['epochs']} | {result['images_per_s']:.0f} | {last['loss']:.3f} | {found} |")
    text = "\n".join([f"Student in `{folder}`", "", *lines])
    create_markdown_artifact(markdown=text, key="distill-student")
    image = base64.b64encode(curves_png([StageRun.read(name, folder / name) for name in results])).decode()
    create_image_artifact(image_url=f"data:image/png;base64,{image}", key="distill-student-curves")
