"""`tinyvit train`."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from logitstore import LogitStore
from tinyvit.cli.options import AsJson, Data, Overrides, RecipeName, Workers
from tinyvit.cli.output import show, stopping_by_signal
from tinyvit.config import load_recipe
from tinyvit.data.loader import default_workers
from tinyvit.data.location import resolve_data
from tinyvit.errors import UserError
from tinyvit.labelling.verify_replay import open_for_training
from tinyvit.models.teachers import load_teacher
from tinyvit.runtime.distributed import join_world
from tinyvit.runtime.progress import SilentProgress, default_progress
from tinyvit.tasks.run import open_run
from tinyvit.tasks.signals import LiveSignals, StoredSignals
from tinyvit.training.train import train as run_stages


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
    """Stage 2: train a student on stored logits, on labels, or both in turn; with torchrun on many devices."""
    resolved = resolve_data(load_recipe(recipe, overrides or []), data)
    stages = stage or list(resolved.stages)
    if store and online:
        raise UserError("--store and --online exclude each other: logits are stored or live")
    if resolved.detection and (store or online):
        raise UserError("a detector learns from no teacher; leave --store and --online out")
    with join_world() as world, stopping_by_signal() as stop:
        progress = default_progress() if world.is_main else SilentProgress()
        count = default_workers(world.local_size) if workers is None else workers
        if not world.is_main:
            logging.getLogger("tinyvit").setLevel(logging.WARNING)
        run = open_run(resolved, run_dir, stages, count, progress, world)
        if store:
            # One process checks it for all.
            checked = open_for_training(resolved, store, run.data, count) if world.is_main else None
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
