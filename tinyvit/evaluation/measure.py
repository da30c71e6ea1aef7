"""Accuracy, loss and calibration of a model on labelled pictures, and its speed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tinyvit.classes import columns
from tinyvit.data.loader import run_streams
from tinyvit.errors import UserError
from tinyvit.evaluation.pictures import EvaluationViews, LabelledPictures
from tinyvit.evaluation.subject import Subject
from tinyvit.pixels import normalise
from tinyvit.progress import Bar, Progress
from tinyvit.world import World

# Of the confidence, for the calibration error (Guo et al. 2017 use 15).
BINS = 15


@dataclass(frozen=True)
class Evaluation:
    """top1, top5 and the expected calibration error in percent, loss in nats, over `images` pictures.

    `images_per_s` is the rate of everything, `forward_images_per_s` that of the network alone, on all devices.
    """

    top1: float
    top5: float
    loss: float
    calibration_error: float
    images: int
    images_per_s: float
    forward_images_per_s: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-simple."""
        return asdict(self)


def evaluate(
    subject: Subject,
    sets: Sequence[LabelledPictures],
    world: World,
    workers: int,
    dtype: torch.dtype,
    progress: Progress,
    title: str,
    classes: Sequence[str] | None = None,
    batch_size: int = 250,
) -> list[Evaluation]:
    """Measure a network on each of some sets, while a bar of this title goes on; see `Evaluator`."""
    evaluator = Evaluator(subject, sets, world, workers, dtype, classes, batch_size)
    with progress.task(title, sum(sum(pictures.counts) for pictures in sets), "pictures") as bar:
        return [evaluator.measure(subject.model, bar) for _ in sets]


class Evaluator:
    """Measures models of one kind, each time on the next of some sets of pictures of the same classes, with the same
    data processes.

    `classes` are the names of the labels, where the pictures do not bring them along.
    """

    def __init__(
        self,
        subject: Subject,
        sets: Sequence[LabelledPictures],
        world: World,
        workers: int,
        dtype: torch.dtype,
        classes: Sequence[str] | None = None,
        batch_size: int = 250,
    ) -> None:
        self._world, self._dtype = world, dtype
        self._mean, self._std = subject.mean, subject.std
        chosen = columns(subject.classes, classes or sets[0].classes)
        self._columns = torch.tensor(chosen, device=world.device) if chosen else None
        streams = [
            EvaluationViews(
                pictures=pictures,
                size=subject.size,
                crop_pct=subject.crop_pct,
                crop_mode=subject.crop_mode,
                interpolation=subject.interpolation,
                batch_size=batch_size,
                decode=subject.decode,
                rank=world.rank,
                world=world.size,
            )
            for pictures in sets
        ]
        self._passes = run_streams(streams, workers, pin_memory=world.device.type == "cuda")

    @torch.inference_mode()
    def measure(self, model: nn.Module, bar: Bar | None = None) -> Evaluation:
        """Evaluate on every picture that has a right class; all ranks must. `bar` is told of each batch.

        UserError for a picture of a class that there is not, or where there is nothing to evaluate on.
        """
        training = model.training
        model.eval()
        began, forward = time.monotonic(), 0.0
        sums = torch.zeros(4, dtype=torch.float64, device=self._world.device)
        bins = torch.zeros(3, BINS, dtype=torch.float64, device=self._world.device)
        for views, labels in next(self._passes):
            if not len(labels):
                continue
            started = time.monotonic()
            logits = self._logits(model, views)
            forward += time.monotonic() - started
            target = self._target(labels, logits)
            best = logits.topk(min(5, logits.shape[1]), dim=1).indices
            right = (best[:, :, None] == target[:, None, :]).any(dim=2)
            # Of the mass on all classes that are right: cross-entropy where it is one.
            mass = logits.log_softmax(dim=1).gather(1, target.clamp(min=0)).masked_fill(target < 0, -torch.inf)
            loss = -mass.logsumexp(dim=1).sum()
            sums += torch.stack(
                [right[:, 0].sum(), right.any(dim=1).sum(), loss, torch.ones_like(loss) * len(labels)]
            ).double()
            confidence = logits.softmax(dim=1).amax(dim=1)
            place = (confidence * BINS).long().clamp(max=BINS - 1)
            for row, values in zip(bins, (torch.ones_like(confidence), confidence, right[:, 0]), strict=True):
                row.index_add_(0, place, values.double())
            if bar:
                bar.advance(len(labels))
        model.train(training)
        sums = torch.cat([sums, sums.new_tensor([forward / self._world.size])])
        top1, top5, loss_sum, images, forward = self._world.sum(sums).tolist()
        _, sure, correct = self._world.sum(bins)
        if not images:
            raise UserError("none of the pictures has a label; give others")
        seconds = time.monotonic() - began
        return Evaluation(
            top1=100 * top1 / images,
            top5=100 * top5 / images,
            loss=loss_sum / images,
            calibration_error=100 * float((sure - correct).abs().sum()) / images,
            images=int(images),
            images_per_s=images / seconds,
            forward_images_per_s=images / forward,
        )

    def _logits(self, model: nn.Module, views: Tensor) -> Tensor:
        device = self._world.device
        with torch.autocast(device.type, self._dtype, enabled=self._dtype != torch.float32):
            logits: Tensor = model(normalise(views, self._mean, self._std, device)).float()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if self._columns is None:
            return logits
        # A class that the model does not have is never its best.
        chosen = logits[:, self._columns.clamp(min=0)]
        return torch.where(self._columns < 0, logits.amin(dim=1, keepdim=True), chosen)

    def _target(self, labels: Tensor, logits: Tensor) -> Tensor:
        least, most = int(labels[:, 0].min()), int(labels.max())
        if not 0 <= least <= most < logits.shape[1]:
            raise UserError(
                f"the data has labels {least}..{most}, the model {logits.shape[1]} classes; "
                f"give data with the classes it was trained for"
            )
        return labels.to(logits.device)
