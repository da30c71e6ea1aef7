"""Opening a run: its data, and what there is to learn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinyvit.config import Recipe
from tinyvit.data.index import ShardIndex
from tinyvit.runtime.distributed import World
from tinyvit.runtime.progress import Progress
from tinyvit.tasks.classification import ClassificationTask
from tinyvit.tasks.detection import DetectionTask, open_coco
from tinyvit.tasks.distillation import DistillationTask
from tinyvit.tasks.student import open_shards
from tinyvit.training.model_runner import repeat_exactly
from tinyvit.training.run import Run, TaskType, check_stages

TASKS: dict[str, TaskType] = {"teacher": DistillationTask, "labels": ClassificationTask, "boxes": DetectionTask}


def open_run(
    recipe: Recipe, folder: Path, stages: Sequence[str], workers: int, progress: Progress, world: World | None = None,
    index: ShardIndex | None = None,
) -> Run[Any]:  # fmt: skip
    """A run of these stages, with its data at hand; `index` is of its shards, where the caller has it already.

    UserError for a stage that there is not.
    """
    check_stages(recipe, stages)
    # Before a live teacher makes the first product of the process.
    repeat_exactly(recipe.engine.deterministic)
    world = world or World()
    if recipe.detection:
        data: Any = open_coco(recipe, workers, progress, world)
    else:
        data = index or open_shards(recipe.data.train, progress, world)
    return Run(recipe, folder, data, TASKS, world, workers, progress)
