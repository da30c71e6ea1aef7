"""What a student learns from a teacher, and perhaps from labels beside."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch import Tensor

from logitstore import Unit
from tinyvit.classes import shared_classes
from tinyvit.config import TeacherStage
from tinyvit.data.batch import Batch
from tinyvit.data.index import ShardIndex
from tinyvit.data.location import cache_for
from tinyvit.data.training_views import TrainingViews
from tinyvit.targets.losses import agreement, distillation_loss, label_loss
from tinyvit.tasks.classes import classes_of_teacher
from tinyvit.tasks.student import StudentTask, metrics_of_classes
from tinyvit.training.run import Run

log = logging.getLogger("tinyvit")


class DistillationTask(StudentTask[TeacherStage]):
    """A student on the soft targets of a run's source of signals."""

    metrics = metrics_of_classes("agreement")

    def __init__(self, run: Run[ShardIndex], name: str, before: Path | None) -> None:
        stage = run.recipe.stages[name]
        assert isinstance(stage, TeacherStage)
        super().__init__(run, name, stage, classes_of_teacher(run, stage), before)
        self._source = source = run.taught
        # The order of an epoch under way must not change when units are labelled meanwhile: a state keeps these.
        self._absent = source.absent()
        self._stored = stage.stored_epochs or source.epochs
        self._row_cache = cache_for(source.location, run.recipe.data) if source.location else None

    @staticmethod
    def of_stage(run: Run[ShardIndex], _name: str) -> Run[ShardIndex]:
        """The run as it is: its teacher was asked about the shards of the recipe."""
        return run

    @classmethod
    def identity(cls, run: Run[ShardIndex], name: str, earlier: str | None) -> list[Any]:
        """All that decides the outcome of a stage after one of this digest."""
        stage = run.recipe.stages[name]
        assert isinstance(stage, TeacherStage)
        return cls._identity(run, name, run.taught.identity(), stage.learns_labels, earlier)

    def views(self, epoch: int, done: int = 0) -> TrainingViews:
        return self._views(
            epoch,
            done,
            replayed=lambda number: self._source.replayed(number % self._stored, self._absent),
            labels=self.stage.label_weight > 0,
            teacher_size=self._source.view_size,
            missing=self.stage.missing,
            row_cache=self._row_cache,
        )

    def loss(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        stage, signal = self.stage, self._source.signal(batch, logits.device)
        loss = distillation_loss(logits, signal.truncate(stage.top_k or signal.num_classes), stage.residual)
        if batch.labels:
            on_labels = label_loss(logits, batch.labels.to(logits.device), 0.0)
            loss = (1 - stage.label_weight) * loss + stage.label_weight * on_labels
        return loss, agreement(logits, signal)

    def measurable(self, classes: tuple[str, ...] | list[str] | None) -> bool:
        """Where the teacher's classes have names, and some in common with the labels'."""
        if shared_classes(self.classes.names, classes):
            return True
        log.info(
            "%s: nothing is measured on %s: its classes have no names, or none in common with the teacher's",
            self.name, self.run.recipe.data.val,
        )  # fmt: skip
        return False

    def log_setup(self) -> None:
        """Say in the log how the store's epochs are used."""
        stage, stored = self.stage, self._stored
        if stage.epochs > stored:
            log.info(
                "%s: %d epochs to train, %d stored: they are used in turn, each %d times or more",
                self.name, stage.epochs, stored, stage.epochs // stored,
            )  # fmt: skip
        if self._absent:
            log.info(
                "%s: %d of the store's %d units are missing; missing=%s decides about their views",
                self.name, len(self._absent), self._source.units, stage.missing,
            )  # fmt: skip

    def state(self) -> dict[str, Any]:
        return {"absent": sorted((unit.block, unit.shard) for unit in self._absent)}

    def restore(self, state: dict[str, Any]) -> None:
        self._absent = frozenset(Unit(block, shard) for block, shard in state["absent"])
