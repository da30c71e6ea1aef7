"""What a detector learns: where objects are in the images of a set in COCO's format."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tinyvit.config import Recipe
from tinyvit.detection.coco import CocoSet
from tinyvit.detection.folder import load_detector, save_detector
from tinyvit.detection.measure import DetectionEvaluator
from tinyvit.detection.model import create_detector
from tinyvit.detection.scenes import Scenes, TrainingScenes
from tinyvit.detection.survey import check_set
from tinyvit.errors import UserError
from tinyvit.runtime.distributed import World
from tinyvit.runtime.progress import Progress
from tinyvit.training.model_runner import ModelRunner
from tinyvit.training.run import Run
from tinyvit.training.task import MetricNames, Task, Validation
from tinyvit.views.images import record_of

log = logging.getLogger("tinyvit")

# Of the coarsest features.
STRIDE = 32


def open_coco(recipe: Recipe, workers: int, progress: Progress, world: World) -> CocoSet:
    """The set that a recipe's detector learns from, found fit for it."""
    assert recipe.detection
    coco = CocoSet(Path(recipe.data.train), recipe.data.decode)
    return check_set(coco, recipe.detection.head == "mask_rcnn", False, world, workers, progress)


class DetectionTask(Task):
    """A detector in a stage: with the weights in the folder `before`, or on those that its student begins with."""

    metrics = MetricNames(None, "ap", curves=("ap", "ap50", "ap75"), told=(("ap", "AP"), ("ap50", "AP50")))
    fixed_input_size = False

    def __init__(self, run: Run[CocoSet], name: str, before: Path | None) -> None:
        recipe = run.recipe
        assert recipe.detection
        if recipe.engine.compile or recipe.engine.grad_checkpointing:
            raise UserError("a detector is neither compiled nor recomputed: leave those fields of engine out")
        self._run, self._detection = run, recipe.detection
        self._stage = stage = recipe.stages[name]
        self._coco = run.data
        if recipe.data.broken == "skip":
            raise UserError("a detector leaves no broken images out: take data.broken away, and mend the images")
        share = -(-stage.batch_size // run.world.size)
        parts = -(-share // recipe.engine.micro_batch) if recipe.engine.micro_batch else 1
        # torchvision takes no batch without an image: the smallest share has one for each part.
        self.grad_accum_steps = max(1, min(parts, stage.batch_size // run.world.size))
        self.steps = len(self._coco) // stage.batch_size
        if not self.steps or stage.batch_size < run.world.size:
            raise UserError(
                f"stage {name}: a batch_size of {stage.batch_size} does not fit {len(self._coco)} images and "
                f"{run.world.size} processes; change stages.{name}.batch_size"
            )
        if not self._coco.census.objects:
            raise UserError(f"{self._coco.annotations} has nothing to learn: {self._coco.census}; give another")
        if before is None:
            classes = len(self._coco.classes)
            self.model: nn.Module = create_detector(recipe.student, self._detection, classes, stage.seed)
        else:
            self.model = load_detector(before).model

    @property
    def input_sizes(self) -> tuple[nn.Module, list[tuple[int, int]]]:
        detector: Any = self.model
        # Images are padded to a multiple of the largest stride, and are of any shape.
        side = STRIDE * -(-min(*self._detection.shorter, self._detection.longer) // STRIDE)
        return detector.backbone.features, [(side, side), (side, side + STRIDE)]

    @staticmethod
    def of_stage(run: Run[CocoSet], _name: str) -> Run[CocoSet]:
        """The run as it is: its stages learn from the same set."""
        return run

    @staticmethod
    def identity(run: Run[CocoSet], name: str, earlier: str | None) -> list[Any]:
        """All that decides the outcome of a stage after one of this digest."""
        recipe = run.recipe
        assert recipe.detection
        student, detection = (part.model_dump(mode="json") for part in (recipe.student, recipe.detection))
        decode, learned = record_of(recipe.data.decode), recipe.stages[name].record()
        return [student, detection, run.data.digest(), decode, learned, earlier]

    def views(self, epoch: int, done: int = 0) -> TrainingScenes:
        run, stage = self._run, self._stage
        return TrainingScenes(
            coco=self._coco,
            batch_size=stage.batch_size,
            epoch=epoch,
            seed=stage.seed,
            masks=self._detection.head == "mask_rcnn",
            hflip=self._detection.hflip,
            rank=run.world.rank,
            world_size=run.world.size,
            grad_accum_steps=self.grad_accum_steps,
            start=done * stage.batch_size,
        )

    def learn(self, network: ModelRunner, batch: Scenes) -> tuple[Tensor, Tensor]:
        device = self._run.world.device
        images = [image.to(device, non_blocking=True).float() / 255 for image in batch.images]
        targets = [{name: value.to(device, non_blocking=True) for name, value in t.items()} for t in batch.targets]
        # torchvision's losses are means over the images of a batch.
        losses: dict[str, Tensor] = network(images, targets)
        total = torch.stack(list(losses.values())).sum()
        return total.expand(len(batch)), torch.zeros(len(batch), device=device)

    def validation(self, times: int, dtype: torch.dtype) -> Validation | None:
        run = self._run
        assert run.recipe.data.val
        train, masks = self._coco, self._detection.head == "mask_rcnn"
        coco = CocoSet(Path(run.recipe.data.val), run.recipe.data.decode)
        coco = check_set(coco, masks, True, run.world, run.workers, run.progress)
        evaluator = DetectionEvaluator(
            coco, train.classes, str(train.annotations), run.world, run.workers, dtype, times, stop=run.stop
        )
        return evaluator.measure

    def save(self, folder: Path, model: nn.Module) -> None:
        recipe = self._run.recipe
        save_detector(folder, model, recipe.student, self._detection, self._coco.categories, recipe.data.decode)

    def log_setup(self) -> None:
        log.info("%s: %s", self._coco.annotations, self._coco.census)

    def counted(self) -> dict[str, Any]:
        return {"data": asdict(self._coco.census)}
