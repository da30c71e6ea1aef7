"""One candidate: its weights from its parent, a short training on stored logits, a score on views held out."""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import replace
from pathlib import Path

from tinyvit.config import Recipe, TeacherStage
from tinyvit.contraction.inherit import inherit
from tinyvit.contraction.rounds import TRAIN, Candidate, Round, Score, SearchFolder
from tinyvit.contraction.score import score
from tinyvit.data.index import ShardIndex
from tinyvit.models import create_student, load_student, save_student
from tinyvit.training.folder import STATE
from tinyvit.training.run import Run
from tinyvit.training.train import train_stage

log = logging.getLogger("tinyvit")

# The folder of the weights that a candidate begins with.
BEGIN = "begin"


def train_candidate(
    run: Run[ShardIndex], folder: SearchFolder, of: Round, candidate: Candidate, held_out: frozenset[int]
) -> Score:
    """Train and score a candidate, or what is left to do of that; returns its score, which is kept.

    `run` is one on the store, of the recipe that is contracted, and the shards that candidates are trained on.
    """
    if known := folder.score(candidate.folder):
        return known
    began, home, plan = time.monotonic(), folder.path / candidate.folder, run.recipe.contract
    student = candidate.point.student(run.recipe.student, None if of.parent else run.recipe.student.checkpoint)
    if of.parent and plan.inherit:
        if not (home / BEGIN).is_dir():
            _begin(run, folder.path / of.parent / TRAIN, home / BEGIN, candidate)
        student = student.model_copy(update={"checkpoint": str(home / BEGIN)})
    log.info("%s: %s", candidate.folder, candidate.point.name)
    stage = short_stage(run.recipe, plan.epochs if of.parent else plan.seed_epochs)
    short = run.recipe.model_copy(
        update={
            "student": student,
            "stages": {TRAIN: stage},
            "contraction": None,
            # It is not evaluated on labels after each epoch.
            "data": run.recipe.data.model_copy(update={"val": None}),
        }
    )
    result = train_stage(replace(run, recipe=short, folder=home), TRAIN, None)
    loss, agreed, views = score(load_student(home / TRAIN), run, held_out, plan.held_out_epochs, stage.residual)
    images = int(result["epochs"] * result["last"]["images"])
    found = Score(loss, agreed, views, images, time.monotonic() - began)
    folder.keep_score(candidate.folder, found)
    shutil.rmtree(home / BEGIN, ignore_errors=True)
    (home / TRAIN / STATE).unlink(missing_ok=True)
    return found


def short_stage(recipe: Recipe, epochs: int) -> TeacherStage:
    """The settings of a recipe's stage for a training of so many epochs."""
    plan = recipe.contract
    stage = recipe.stages[plan.stage]
    assert isinstance(stage, TeacherStage)
    warmup = min(stage.warmup_epochs * epochs / stage.epochs, epochs / 2)
    return stage.model_copy(update={"epochs": epochs, "warmup_epochs": warmup, "seed": plan.seed})


def _begin(run: Run[ShardIndex], parent: Path, folder: Path, candidate: Candidate) -> None:
    """The weights that a candidate inherits, in a folder that appears whole."""
    student = candidate.point.student(run.recipe.student, None)
    before = load_student(parent)
    child = create_student(student, int(before.num_classes), run.recipe.contract.seed)  # type: ignore[arg-type]
    inherit(child, before)
    aside = folder.with_name(f"{folder.name}.partial")
    save_student(aside, child, student, None, run.recipe.data.decode)
    aside.replace(folder)
