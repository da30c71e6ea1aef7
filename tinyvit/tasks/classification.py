"""What a student learns from labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from tinyvit.config import LabelStage
from tinyvit.data.batch import Batch
from tinyvit.data.index import ShardIndex
from tinyvit.data.training_views import Replayed, TrainingViews
from tinyvit.targets.losses import agreement, label_loss
from tinyvit.tasks.classes import classes_of_labels
from tinyvit.tasks.student import StudentTask, metrics_of_classes, open_shards
from tinyvit.training.run import Run


class ClassificationTask(StudentTask[LabelStage]):
    """A student on labels."""

    metrics = metrics_of_classes("train_top1")

    def __init__(self, run: Run[ShardIndex], name: str, before: Path | None) -> None:
        stage = run.recipe.stages[name]
        assert isinstance(stage, LabelStage)
        super().__init__(run, name, stage, classes_of_labels(run), before)

    @staticmethod
    def of_stage(run: Run[ShardIndex], name: str) -> Run[ShardIndex]:
        """The run with the shards that a stage is shown, which may be its own."""
        recipe, stage = run.recipe, run.recipe.stages[name]
        if not isinstance(stage, LabelStage) or stage.train is None:
            return run
        own = recipe.model_copy(update={"data": recipe.data.model_copy(update={"train": stage.train})})
        return replace(run, recipe=own, data=open_shards(stage.train, run.progress, run.world))

    @classmethod
    def identity(cls, run: Run[ShardIndex], name: str, earlier: str | None) -> list[Any]:
        """All that decides the outcome of a stage after one of this digest."""
        return cls._identity(run, name, None, True, earlier)

    def views(self, epoch: int, done: int = 0) -> TrainingViews:
        return self._views(epoch, done, lambda number: Replayed(number, self.stage.seed, None), labels=True)

    def loss(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        assert batch.labels
        labels = batch.labels.to(logits.device)
        return label_loss(logits, labels, self.stage.label_smoothing), agreement(logits, labels)
