"""What a student of classes learns: a teacher's answers, labels, or both."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from logitstore import Unit
from tinyvit.classes import shared_classes
from tinyvit.config import Stage
from tinyvit.data.images import record_of
from tinyvit.data.training_views import Batch, TrainingViews
from tinyvit.errors import UserError
from tinyvit.evaluation import Evaluator, Subject, open_pictures
from tinyvit.pixels import normalise
from tinyvit.signal import TeacherSignal, answered
from tinyvit.students import (
    adopt_weights,
    classes_of,
    colours,
    create_student,
    input_size,
    load_weights,
    save_student,
)
from tinyvit.training.epochs import Epochs
from tinyvit.training.losses import agreement, distillation_loss, label_loss
from tinyvit.training.network import Network
from tinyvit.training.run import Run
from tinyvit.training.task import Validation

log = logging.getLogger("tinyvit")


class Classification:
    """A student in a stage: with the weights in the folder `before`, or those that its recipe begins with."""

    best_by = "top1"
    one_size = True
    plotted: tuple[str, ...] = ("top1", "top5", "loss", "calibration_error")

    def __init__(self, run: Run, name: str, before: Path | None) -> None:
        self._run, self._name = run, name
        self._stage = stage = run.recipe.stages[name]
        self._classes = run.class_names(stage)
        num_classes = run.num_classes(stage)
        self.model: nn.Module = create_student(run.recipe.student, num_classes, stage.seed, self._classes)
        if before is not None:
            adopt_weights(self.model, load_weights(before), classes_of(before), self._classes)
        self._colours = colours(self.model)
        self._num_classes = num_classes
        self._epochs = Epochs(run, name, input_size(self.model), num_classes, run.label_classes(stage))
        self.right: str | None = "agreement" if stage.target == "teacher" else "train_top1"

    @staticmethod
    def identity(run: Run, stage: Stage, earlier: str | None) -> list[Any]:
        """All that decides the outcome of a stage after one of this digest."""
        return [
            run.recipe.student.model_dump(mode="json"),
            list(run.index.table.sha256),
            # Which shards they are is said by their bytes.
            stage.model_dump(mode="json", exclude={"train"}),
            run.recipe.augment_of(stage).model_dump(mode="json"),
            record_of(run.recipe.data.decode),
            run.answers if stage.target == "teacher" else None,
            # What labels mean stands beside the shards, not in them.
            run.index.place.class_names() if stage.learns_labels else None,
            earlier,
            *([] if run.shards is None else [sorted(run.shards)]),
        ]

    @property
    def shown(self) -> tuple[nn.Module, list[tuple[int, int]]]:
        side = input_size(self.model)
        return self.model, [(side, side)]

    @property
    def steps(self) -> int:
        return self._epochs.steps

    @property
    def parts(self) -> int:
        return self._epochs.parts

    def views(self, epoch: int, done: int = 0) -> TrainingViews:
        return self._epochs.views(epoch, done)

    def learn(self, network: Network, batch: Batch) -> tuple[Tensor, Tensor]:
        stage, device = self._stage, self._run.world.device
        if not len(batch):
            # A blank view in place of none, of which nothing is learned.
            height, width = self.shown[1][0]
            blank: Tensor = network(torch.zeros(1, 3, height, width, device=device))
            return 0 * blank.sum(dim=1), torch.zeros(1, device=device)
        logits: Tensor = network(normalise(batch.views, *self._colours, device))
        labels = batch.labels.to(device) if batch.labels else None
        if stage.target == "labels":
            assert labels
            return label_loss(logits, labels, stage.label_smoothing), agreement(logits, labels)
        signal = batch.signal.to(device) if batch.signal else self._ask(batch)
        loss = distillation_loss(logits, signal.truncate(stage.top_k or signal.num_classes), stage.residual)
        if labels:
            on_labels = label_loss(logits, labels, stage.label_smoothing)
            loss = (1 - stage.label_weight) * loss + stage.label_weight * on_labels
        return loss, agreement(logits, signal)

    def _ask(self, batch: Batch) -> TeacherSignal:
        """What the live teacher says of a batch: the classes that a store of the recipe would keep."""
        teacher, label = self._run.teacher, self._run.recipe.label
        assert teacher
        assert batch.teacher_views is not None
        logits = teacher.answer(batch.teacher_views)
        if wrong := int((~answered(logits)).sum()):
            raise UserError(
                f"stage {self._name}: what the teacher {teacher.name} says of {wrong} of {len(logits)} views is NaN or "
                f"infinite; look at its weights, its mean and std, and its precision"
            )
        return TeacherSignal.selected(logits, label.select, label.top_k, label.mass, batch.seeds)

    def validation(self, times: int, dtype: torch.dtype) -> Validation | None:
        run = self._run
        assert run.recipe.data.val
        pictures = open_pictures(run.recipe.data.val, run.progress)
        if self._stage.target == "teacher" and not shared_classes(self._classes, pictures.classes):
            log.info(
                "%s: nothing is measured on %s: its classes have no names, or none in common with the teacher's",
                self._name, run.recipe.data.val,
            )  # fmt: skip
            return None
        evaluator = Evaluator(
            Subject.of(self.model, self._classes, run.recipe.data.decode),
            [pictures] * times,
            run.world,
            run.workers,
            dtype,
            skip_broken=run.recipe.data.broken == "skip",
            stop=run.stop,
        )
        if (looked := (run.recipe.data.val, self._num_classes)) not in run.looked_at:
            evaluator.check_pictures(self._num_classes, run.progress)
            run.looked_at.add(looked)
        return lambda model: evaluator.measure(model).as_dict()

    def save(self, folder: Path, model: nn.Module) -> None:
        recipe = self._run.recipe
        save_student(folder, model, recipe.student, self._classes, recipe.data.decode)

    def announce(self) -> None:
        self._epochs.announce()

    def counted(self) -> dict[str, Any]:
        return {}

    def state(self) -> dict[str, Any]:
        return {"absent": sorted((unit.block, unit.shard) for unit in self._epochs.absent)}

    def restore(self, state: dict[str, Any]) -> None:
        self._epochs.absent = frozenset(Unit(block, shard) for block, shard in state["absent"])
