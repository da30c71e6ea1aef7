"""Stage 2: train a student, stage after stage, on a teacher's logits or on labels.

What a stage has finished is not done again, and a stage that was stopped goes on after the last state that was saved,
at the end of an epoch or within it: with the next view that it has not seen, and to the same weights.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from logitstore import digest_of
from tinyvit.errors import UserError
from tinyvit.runtime.provenance import library_versions, now
from tinyvit.training.beforehand import refuse_untrainable
from tinyvit.training.folder import RESULT, StageFolder, read_json
from tinyvit.training.model_runner import precision_of
from tinyvit.training.run import Run, TaskType
from tinyvit.training.task import Task
from tinyvit.training.trainer import Trainer

log = logging.getLogger("tinyvit")


def train(run: Run[Any], stages: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Run the named stages in order, each from the weights of the one before; yields the result of each.

    UserError, before the first one begins, for a stage that learns from a teacher where there is none.
    """
    needy = [name for name in stages if run.recipe.stages[name].target == "teacher"]
    if needy and run.signals is None:
        raise UserError(f"the stage {needy[0]!r} learns from a store; give one, or name stages on labels only")
    if run.signals and needy:
        run.signals.try_teacher()
    for name in stages[1:]:
        refuse_stage(run, name)
    before: Path | None = None
    for name in stages:
        yield train_stage(run, name, before)
        before = run.folder / name


def refuse_stage(run: Run[Any], name: str) -> None:
    """UserError for a stage that could not begin after others, as far as that is known before they are done.

    One that is done is not looked at again.
    """
    if read_json(run.folder / name, RESULT) is not None:
        return
    run = _kind(run, name).of_stage(run, name)
    fresh = run.recipe.student.model_copy(update={"checkpoint": None})
    task = _open_task(replace(run, recipe=run.recipe.model_copy(update={"student": fresh})), name, None)
    if run.recipe.data.val:
        task.validation(1, precision_of(run.recipe.engine.precision, run.world.device))


def train_stage(run: Run[Any], name: str, before: Path | None) -> dict[str, Any]:
    """Run one stage, from the weights in the folder `before` or from fresh ones, and return its result.

    The result holds stage, epochs, images_per_s, the last epoch's metrics, `val` (an Evaluation, for stages on
    labels with validation shards), `best` likewise, and `checkpoint`, a folder that timm loads. A finished stage is
    not done again. Stopped when the run is told to stop, after its state was saved.
    """
    record, run = _record(run), _kind(run, name).of_stage(run, name)
    stage = run.recipe.stages[name]
    folder = StageFolder(run.folder / name, _stage_digest(run, name, before))
    state = folder.read_state(run.world.device)
    _refuse_apart(run, state)
    if state and (result := read_json(folder.path, RESULT)):
        log.info("%s: already done, nothing to do", name)
        return result
    if state:
        within = f" and {state['step']} steps" if state["step"] else ""
        log.info("%s: resumed after epoch %d of %d%s", name, state["epoch"], stage.epochs, within)
    trainer = Trainer(run, name, folder, _open_task(run, name, before))
    if run.world.is_main:
        folder.begin(record)
    result = trainer.run(state)
    run.world.barrier()
    return result


def _refuse_apart(run: Run[Any], state: dict[str, Any] | None) -> None:
    """Ranks on several machines must see one run folder, or each would go on from another state."""
    here = 0 if state is None else 1 + (state["epoch"] << 32) + state["step"]
    if run.world.all_reduce_max(here) != -run.world.all_reduce_max(-here):
        raise UserError(
            f"the processes do not find the same state in {run.folder}; put the run folder where every machine sees it"
        )


def _open_task(run: Run[Any], name: str, before: Path | None) -> Task:
    task = _kind(run, name)(run, name, before)
    refuse_untrainable(run, name, task)
    return task


def _kind(run: Run[Any], name: str) -> TaskType:
    return run.tasks[run.recipe.stages[name].target]


def _stage_digest(run: Run[Any], name: str, before: Path | None) -> str:
    """Of everything that decides the outcome of a stage."""
    earlier = read_json(before, RESULT) if before else None
    return digest_of(_kind(run, name).identity(run, name, earlier["digest"] if earlier else None))


def _record(run: Run[Any]) -> dict[str, Any]:
    return {
        "recipe": run.recipe.record(),
        "recipe_digest": run.recipe.digest(),
        **(run.signals.record() if run.signals else {"store": None, "store_digest": None, "online_teacher": None}),
        "libraries": library_versions(),
        "device": str(run.world.device),
        "ranks": run.world.size,
        "workers": run.workers,
        "time": now(),
    }
