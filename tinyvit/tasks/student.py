"""What stages of a student of classes share: the network, the views that it is shown, how it is measured and kept."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from tinyvit.config import ClassStage
from tinyvit.data.batch import Batch
from tinyvit.data.index import ShardIndex, index_shards
from tinyvit.data.location import cache_for
from tinyvit.data.order import EpochOrder
from tinyvit.data.training_views import Kept, Replayed, TrainingViews, counts_of, views_together
from tinyvit.errors import UserError
from tinyvit.evaluation import EvalModel, Evaluator, open_images
from tinyvit.models import adopt_weights, classes_of, create_student, input_size, load_weights, mean_std, save_student
from tinyvit.runtime.distributed import World
from tinyvit.runtime.progress import Progress
from tinyvit.tasks.classes import StageClasses
from tinyvit.training.model_runner import ModelRunner
from tinyvit.training.run import Run
from tinyvit.training.task import MetricNames, Task, Validation
from tinyvit.views.images import record_of
from tinyvit.views.pixels import normalise

S = TypeVar("S", bound=ClassStage)


def metrics_of_classes(train: str) -> MetricNames:
    """The figures of a student of classes; `train` is what it is called when it is right about a view."""
    return MetricNames(train, "top1", ("top1", "top5", "loss", "calibration_error"), told=(("top1", "top-1"),))


def open_shards(location: str, progress: Progress, world: World) -> ShardIndex:
    """The index of shards. The first rank makes it where there is none yet, the others read it."""
    if not world.is_main:
        world.barrier()
    index = index_shards(location, progress)
    if world.is_main:
        world.barrier()
    return index


class StudentTask(Task, Generic[S]):
    """A student in a stage, for this rank: with the weights in the folder `before`, or those that its recipe begins
    with.
    """

    fixed_input_size = True

    def __init__(self, run: Run[ShardIndex], name: str, stage: S, classes: StageClasses, before: Path | None) -> None:
        self.run, self.name, self.stage, self.classes = run, name, stage, classes
        micro, world = run.recipe.engine.micro_batch, run.world.size
        if stage.batch_size < world:
            raise UserError(f"stage {name}: {world} processes cannot share a batch_size of {stage.batch_size}")
        share = -(-stage.batch_size // world)
        self.grad_accum_steps = -(-share // micro) if micro else 1
        together = views_together(run.recipe.augment_of(stage), stage.views_per_read)
        # Of a whole epoch: one of a store that lacks some units may have fewer.
        order = EpochOrder(counts_of(run.data, run.shards), stage.seed, 0, run.recipe.data.lanes, together)
        order.share(stage.batch_size)
        self.steps = order.total // stage.batch_size
        self._index = run.data.through(cache_for(run.recipe.data.train, run.recipe.data))
        self._kept = Kept()
        if self.steps == 0:
            raise UserError(
                f"stage {name}: no whole batch of {stage.batch_size} in {order.total} images; "
                f"lower stages.{name}.batch_size"
            )
        self.model: nn.Module = create_student(run.recipe.student, classes.count, stage.seed, classes.names)
        if before is not None:
            adopt_weights(self.model, load_weights(before), classes_of(before), classes.names)
        self._side, self._mean_std = input_size(self.model), mean_std(self.model)

    @staticmethod
    def _identity(
        run: Run[ShardIndex], name: str, source: dict[str, Any] | None, labels: bool, earlier: str | None
    ) -> list[Any]:
        """All that decides the outcome of a stage that learns from a source of signals, labels or both."""
        stage = run.recipe.stages[name].record()
        # Which shards they are is said by their bytes.
        stage.pop("train", None)
        return [
            run.recipe.student.model_dump(mode="json"),
            list(run.data.table.sha256),
            stage,
            run.recipe.augment_of(run.recipe.stages[name]).model_dump(mode="json"),
            record_of(run.recipe.data.decode),
            source,
            # What labels mean stands beside the shards, not in them.
            run.data.class_names if labels else None,
            earlier,
            *([] if run.shards is None else [sorted(run.shards)]),
            # Most have one, and are the runs that they were.
            *([] if run.recipe.data.lanes == 1 else [{"lanes": run.recipe.data.lanes}]),
        ]

    @property
    def input_sizes(self) -> tuple[nn.Module, list[tuple[int, int]]]:
        return self.model, [(self._side, self._side)]

    @abstractmethod
    def views(self, epoch: int, done: int = 0) -> TrainingViews: ...

    def _views(self, epoch: int, done: int, replayed: Callable[[int], Replayed], **learned: Any) -> TrainingViews:
        """Of what is `learned` from them the views of an epoch after so many steps; `replayed` says which those of an
        epoch are.
        """
        run, stage = self.run, self.stage
        first = epoch - epoch % stage.views_per_read
        together = range(first, min(first + stage.views_per_read, stage.epochs))
        return TrainingViews(
            index=self._index,
            augment=run.recipe.augment_of(stage),
            decode=run.recipe.data.decode,
            size=self._side,
            num_classes=self.classes.count,
            batch_size=stage.batch_size,
            epoch=first,
            seed=stage.seed,
            replayed=tuple(map(replayed, together)),
            part=epoch - first,
            label_classes=self.classes.of_labels,
            broken=run.recipe.data.broken,
            rank=run.world.rank,
            world_size=run.world.size,
            grad_accum_steps=self.grad_accum_steps,
            start=done * stage.batch_size,
            lanes=run.recipe.data.lanes,
            shards=run.shards,
            kept=self._kept,
            **learned,
        )

    def learn(self, network: ModelRunner, batch: Batch) -> tuple[Tensor, Tensor]:
        device = self.run.world.device
        if not len(batch):
            # A blank view in place of none, of which nothing is learned.
            blank: Tensor = network(torch.zeros(1, 3, self._side, self._side, device=device))
            return 0 * blank.sum(dim=1), torch.zeros(1, device=device)
        return self.loss(network(normalise(batch.views, *self._mean_std, device)), batch)

    @abstractmethod
    def loss(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """[n] the losses of a batch's views, and whether the student is right about each."""

    def validation(self, times: int, dtype: torch.dtype) -> Validation | None:
        run, val = self.run, self.run.recipe.data.val
        assert val
        images = open_images(val, run.progress, cache_for(val, run.recipe.data))
        if not self.measurable(images.classes):
            return None
        evaluator = Evaluator(
            EvalModel.of(self.model, self.classes.names, run.recipe.data.decode),
            [images] * times,
            run.world,
            run.workers,
            dtype,
            skip_broken=run.recipe.data.broken == "skip",
            stop=run.stop,
        )
        if (looked := (val, self.classes.count)) not in run.looked_at:
            evaluator.check_images(self.classes.count, run.progress)
            run.looked_at.add(looked)
        return lambda model: evaluator.measure(model).as_dict()

    def measurable(self, _classes: tuple[str, ...] | list[str] | None) -> bool:
        """Whether what the student says can be held against labels of these classes."""
        return True

    def save(self, folder: Path, model: nn.Module) -> None:
        recipe = self.run.recipe
        save_student(folder, model, recipe.student, self.classes.names, recipe.data.decode)
