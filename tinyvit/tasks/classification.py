"""What a student of classes learns: a teacher's answers, labels, or both."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from logitstore import Unit
from tinyvit.classes import shared_classes
from tinyvit.config import Stage
from tinyvit.data.index import ShardIndex, index_shards
from tinyvit.data.training_views import Batch, TrainingViews
from tinyvit.evaluation import Evaluator, Subject, open_pictures
from tinyvit.models import (
    adopt_weights,
    classes_of,
    colours,
    create_student,
    input_size,
    load_weights,
    save_student,
)
from tinyvit.runtime.distributed import World
from tinyvit.runtime.progress import Progress
from tinyvit.targets.losses import agreement, distillation_loss, label_loss
from tinyvit.tasks.classes import classes_of_stage
from tinyvit.tasks.epochs import Epochs
from tinyvit.training.network import Network
from tinyvit.training.run import Run
from tinyvit.training.task import Validation
from tinyvit.views.images import record_of
from tinyvit.views.pixels import normalise

log = logging.getLogger("tinyvit")


def open_shards(location: str, progress: Progress, world: World) -> ShardIndex:
    """The index of shards. The first rank makes it where there is none yet, the others read it."""
    if not world.chief:
        world.meet()
    index = index_shards(location, progress)
    if world.chief:
        world.meet()
    return index


class ClassificationTask:
    """A student in a stage: with the weights in the folder `before`, or those that its recipe begins with."""

    best_by = "top1"
    one_size = True
    plotted: tuple[str, ...] = ("top1", "top5", "loss", "calibration_error")

    def __init__(self, run: Run[ShardIndex], name: str, before: Path | None) -> None:
        self._run, self._name = run, name
        self._stage = stage = run.recipe.stages[name]
        classes = classes_of_stage(run, stage)
        self._classes, self._num_classes = classes.names, classes.count
        self.model: nn.Module = create_student(run.recipe.student, classes.count, stage.seed, self._classes)
        if before is not None:
            adopt_weights(self.model, load_weights(before), classes_of(before), self._classes)
        self._colours = colours(self.model)
        self._epochs = Epochs(run, name, input_size(self.model), classes)
        self.right: str | None = "agreement" if stage.target == "teacher" else "train_top1"

    @staticmethod
    def of_stage(run: Run[ShardIndex], name: str) -> Run[ShardIndex]:
        """The run with the shards that a stage is shown, which may be its own."""
        recipe, train = run.recipe, run.recipe.stages[name].train
        if train is None:
            return run
        own = recipe.model_copy(update={"data": recipe.data.model_copy(update={"train": train})})
        return replace(run, recipe=own, data=open_shards(train, run.progress, run.world))

    @staticmethod
    def identity(run: Run[ShardIndex], stage: Stage, earlier: str | None) -> list[Any]:
        """All that decides the outcome of a stage after one of this digest."""
        return [
            run.recipe.student.model_dump(mode="json"),
            list(run.data.table.sha256),
            # Which shards they are is said by their bytes.
            stage.model_dump(mode="json", exclude={"train"}),
            run.recipe.augment_of(stage).model_dump(mode="json"),
            record_of(run.recipe.data.decode),
            run.taught.identity() if stage.target == "teacher" else None,
            # What labels mean stands beside the shards, not in them.
            run.data.place.class_names() if stage.learns_labels else None,
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
        signal = self._run.taught.signal(batch, device)
        loss = distillation_loss(logits, signal.truncate(stage.top_k or signal.num_classes), stage.residual)
        if labels:
            on_labels = label_loss(logits, labels, stage.label_smoothing)
            loss = (1 - stage.label_weight) * loss + stage.label_weight * on_labels
        return loss, agreement(logits, signal)

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
