"""Entry point and the commands of the two stages."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from tinyvit.cli.bench import app as bench_app
from tinyvit.cli.contract import contract
from tinyvit.cli.data import app as data_app
from tinyvit.cli.doctor import doctor
from tinyvit.cli.evaluate import evaluate
from tinyvit.cli.options import AsJson, Workers
from tinyvit.cli.output import log_to_stderr, one_line_faults, show, stopping_by_signal
from tinyvit.cli.plan import plan
from tinyvit.cli.report import report
from tinyvit.cli.scorecard import scorecard
from tinyvit.cli.store import app as store_app
from tinyvit.errors import UserError
from tinyvit.runtime.wandb import hide_wandb

# Commands import what they need themselves: torch and timm take seconds, and `store info` needs neither.

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(data_app, name="data")
app.add_typer(store_app, name="store")
app.add_typer(bench_app, name="bench")
app.command()(contract)
app.command()(doctor)
app.command()(evaluate)
app.command()(plan)
app.command()(report)
app.command()(scorecard)

RecipeName = Annotated[str, typer.Argument(help="name of a recipe, or a .yaml file")]
Data = Annotated[
    str | None,
    typer.Option("--data", help="shards: a folder or URL, or one with train/ and val/ inside; default: the recipe's"),
]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="override, such as label.top_k=10; repeatable")]


@app.command()
def label(
    recipe: RecipeName,
    store: Annotated[str, typer.Option(help="where the logit store is, or will be: a folder or a URL")],
    data: Data = None,
    overrides: Overrides = None,
    part: Annotated[
        str | None, typer.Option("--slice", metavar="I/N", help="only the I-th of N slices of the units, such as 3/8")
    ] = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Stage 1: ask the teacher about every view and keep its best classes. Does only what is missing.

    Start it several times on one store, on as many machines as you like: they share the work.
    """
    from tinyvit.config import load_recipe
    from tinyvit.data.loader import default_workers
    from tinyvit.data.location import resolve_data
    from tinyvit.labelling.label import Slice, label_store
    from tinyvit.models.teachers import load_teacher
    from tinyvit.runtime.gpu_lock import reserve_gpu
    from tinyvit.runtime.progress import default_progress

    resolved = resolve_data(load_recipe(recipe, overrides or []), data)
    progress = default_progress()
    teacher = load_teacher(resolved.label.teacher, reserve_gpu(), resolved.label.classes, resolved.label.input_size)
    count = default_workers() if workers is None else workers
    chosen = Slice.parse(part) if part else None
    opened, reports = label_store(resolved, store, teacher, count, progress, chosen)
    seconds, views = sum(r.seconds for r in reports), sum(r.views for r in reports)
    result = {
        "store": store,
        "units": len(opened.units()),
        "units_labelled_now": len(reports),
        "units_missing": 0 if opened.sealed else len(opened.missing()),
        "views_labelled_now": views,
        "views_without_answer": sum(r.invalid for r in reports),
        "views_per_s": views / seconds if seconds else 0.0,
        "sealed": opened.sealed,
    }
    show(result, as_json, "labelled")


@app.command()
def train(
    recipe: RecipeName,
    run_dir: Annotated[Path, typer.Option(help="where checkpoints and metrics go; a stopped run goes on there")],
    store: Annotated[str | None, typer.Option(help="a sealed logit store, for stages that learn from one")] = None,
    online: Annotated[
        str | None, typer.Option(metavar="TEACHER", help="ask this live teacher in place of a store, to compare")
    ] = None,
    data: Data = None,
    stage: Annotated[list[str] | None, typer.Option(help="run only this stage; repeatable, in order")] = None,
    overrides: Overrides = None,
    workers: Workers = None,
    wandb: Annotated[
        str | None, typer.Option(metavar="PROJECT", help="write metrics to Weights & Biases as well")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Stage 2: train a student on stored answers, on labels, or both in turn; with torchrun on many devices."""
    from logitstore import LogitStore
    from tinyvit.config import load_recipe
    from tinyvit.data.loader import default_workers
    from tinyvit.data.location import resolve_data
    from tinyvit.labelling.verify_replay import open_for_training
    from tinyvit.models.teachers import load_teacher
    from tinyvit.runtime.distributed import join_world
    from tinyvit.runtime.progress import SilentProgress, default_progress
    from tinyvit.tasks.run import open_run
    from tinyvit.tasks.signals import LiveSignals, StoredSignals
    from tinyvit.training.train import train as run_stages

    resolved = resolve_data(load_recipe(recipe, overrides or []), data)
    stages = stage or list(resolved.stages)
    if store and online:
        raise UserError("--store and --online exclude each other: answers are stored or live")
    with join_world() as world, stopping_by_signal() as stop:
        progress = default_progress() if world.is_main else SilentProgress()
        count = default_workers(world.local_size) if workers is None else workers
        if not world.is_main:
            logging.getLogger("tinyvit").setLevel(logging.WARNING)
        run = open_run(resolved, run_dir, stages, count, progress, world)
        if store:
            # One process checks it for all.
            checked = open_for_training(resolved, store, count, progress) if world.is_main else None
            world.barrier()
            run = replace(run, signals=StoredSignals(checked or LogitStore.open(store)))
        elif online:
            label = run.recipe.label
            teacher = load_teacher(online, world.device, label.classes, label.input_size)
            run = replace(run, signals=LiveSignals(teacher, label))
        run = replace(run, wandb=wandb, stop=stop)
        results = {result["stage"]: result for result in run_stages(run, stages)}
        if world.is_main:
            show(results, as_json, "trained")


@app.command()
def export(
    student: Annotated[Path, typer.Argument(help="a stage's run folder")],
    out: Annotated[Path, typer.Argument(help="the folder to make")],
    onnx: Annotated[bool, typer.Option("--onnx", help="also as ONNX, checked against torch")] = False,
    program: Annotated[bool, typer.Option("--program", help="also as a program of torch.export, checked")] = False,
    as_json: AsJson = False,
) -> None:
    """A finished student as a folder for others: weights, timm configuration, class names, recipe, model card."""
    from tinyvit.export import export_student

    show(export_student(student, out, onnx, program), as_json, "exported")


@app.command("import")
def import_(
    checkpoint: Annotated[Path, typer.Argument(help="a .pth of the paper's model zoo")],
    out: Annotated[Path, typer.Argument(help="the folder to make")],
    weights: Annotated[
        str | None, typer.Option(help="take those of this name, such as model; default: an average (EMA) if it has one")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """One of the paper's released students as a folder that timm loads."""
    from tinyvit.models.released import import_released

    show(import_released(checkpoint, out, weights), as_json, "imported")


def main() -> None:
    """The `tinyvit` command."""
    log_to_stderr()
    hide_wandb()
    with one_line_faults():
        app()
