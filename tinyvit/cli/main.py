"""Entry point and the commands of the two stages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tinyvit.cli.bench import app as bench_app
from tinyvit.cli.data import app as data_app
from tinyvit.cli.output import log_to_stderr, one_line_faults, show
from tinyvit.cli.store import app as store_app

# Commands import what they need themselves: torch and timm take seconds, and `store info` needs neither.

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(data_app, name="data")
app.add_typer(store_app, name="store")
app.add_typer(bench_app, name="bench")

RecipeName = Annotated[str, typer.Argument(help="name of a recipe, or a .yaml file")]
Data = Annotated[
    str | None,
    typer.Option("--data", help="shards: a folder, one with train/ and val/ inside, or a URL; default: the recipe's"),
]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="override, such as label.top_k=10; repeatable")]
Workers = Annotated[int | None, typer.Option(help="data processes; default: one a core beside this one, at most 8")]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]


@app.command()
def label(
    recipe: RecipeName,
    store: Annotated[str, typer.Option(help="where the logit store is, or will be: a folder or a URL")],
    data: Data = None,
    overrides: Overrides = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Stage 1: ask the teacher about every view and keep its best classes. Does only what is missing."""
    from tinyvit.config import load_recipe
    from tinyvit.data.loader import default_workers
    from tinyvit.label import finish, label_units, open_for_labelling
    from tinyvit.pixels import default_device
    from tinyvit.progress import default_progress
    from tinyvit.teachers import load_teacher

    resolved = load_recipe(recipe, overrides or []).with_data(data)
    progress = default_progress()
    teacher = load_teacher(resolved.label.teacher, default_device(), resolved.label.classes)
    opened = open_for_labelling(resolved, store, teacher, progress)
    missing = opened.missing()
    count = default_workers() if workers is None else workers
    reports = list(label_units(opened, missing, resolved, teacher, count, progress)) if missing else []
    if reports or not opened.sealed:
        finish(opened, progress)
    seconds, views = sum(r.seconds for r in reports), sum(r.views for r in reports)
    result = {
        "store": store,
        "units": len(opened.units()),
        "units_labelled_now": len(reports),
        "views_labelled_now": views,
        "views_without_answer": sum(r.invalid for r in reports),
        "views_per_s": views / seconds if seconds else 0.0,
        "sealed": opened.sealed,
    }
    show(result, as_json, "labelled")


@app.command()
def train(
    recipe: RecipeName,
    run_dir: Annotated[Path, typer.Option(help="where checkpoints and metrics go; a killed run goes on there")],
    store: Annotated[str | None, typer.Option(help="a sealed logit store, for stages that learn from one")] = None,
    data: Data = None,
    stage: Annotated[list[str] | None, typer.Option(help="run only this stage; repeatable, in order")] = None,
    overrides: Overrides = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Stage 2: train a student on stored answers, on labels, or on one after the other."""
    from tinyvit.config import load_recipe
    from tinyvit.data.loader import default_workers
    from tinyvit.progress import default_progress
    from tinyvit.replay_check import open_for_training
    from tinyvit.train import open_run
    from tinyvit.train import train as run_stages

    resolved = load_recipe(recipe, overrides or []).with_data(data)
    progress = default_progress()
    stages = stage or list(resolved.stages)
    count = default_workers() if workers is None else workers
    opened = open_for_training(resolved, store, count, progress) if store else None
    run = open_run(resolved, run_dir, opened, stages, count, progress)
    results = {result["stage"]: result for result in run_stages(run, stages)}
    show(results, as_json, "trained")


@app.command()
def evaluate(
    student: Annotated[Path, typer.Argument(help="a stage's run folder, or an exported student")],
    data: Annotated[str, typer.Option(help="labelled shards: a folder or a URL")],
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Accuracy of a student on labelled shards."""
    from tinyvit.data.loader import default_workers
    from tinyvit.evaluate import evaluate as run_evaluation
    from tinyvit.pixels import default_device
    from tinyvit.progress import default_progress
    from tinyvit.students import load_student

    device = default_device()
    model = load_student(student).to(device)
    result = run_evaluation(model, data, device, default_workers() if workers is None else workers, default_progress())
    show(result.as_dict(), as_json, str(student))


@app.command()
def export(
    student: Annotated[Path, typer.Argument(help="a stage's run folder")],
    out: Annotated[Path, typer.Argument(help="the folder to make")],
    as_json: AsJson = False,
) -> None:
    """A finished student as a folder for others: weights, timm configuration, class names, model card."""
    from tinyvit.export import export_student

    result: dict[str, Any] = export_student(student, out)
    show(result, as_json, "exported")


def main() -> None:
    """The `tinyvit` command."""
    log_to_stderr()
    with one_line_faults():
        app()
