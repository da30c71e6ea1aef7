"""Accuracy, loss and calibration of a model on labelled pictures, and its speed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tinyvit.data.loader import run_streams
from tinyvit.errors import UserError
from tinyvit.evaluation.pictures import EvaluationViews, LabelledPictures
from tinyvit.evaluation.subject import Subject, columns
from tinyvit.pixels import normalise
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


class Evaluator:
    """Measures models of one kind on one set of pictures, `times` times, with the same data processes.

    `classes` are the names of the labels, where the pictures do not bring them along.
    """

    def __init__(
        self,
        subject: Subject,
        pictures: LabelledPictures,
        world: World,
        workers: int,
        dtype: torch.dtype,
        times: int = 1,
        classes: Sequence[str] | None = None,
        batch_size: int = 250,
    ) -> None:
        self._world, self._dtype = world, dtype
        self._mean, self._std = subject.mean, subject.std
        chosen = columns(subject.classes, classes or pictures.classes)
        self._columns = torch.tensor(chosen, device=world.device) if chosen else None
        views = EvaluationViews(
            pictures=pictures,
            size=subject.size,
            crop_pct=subject.crop_pct,
            crop_mode=subject.crop_mode,
            interpolation=subject.interpolation,
            batch_size=batch_size,
            rank=world.rank,
            world=world.size,
        )
        self._passes = run_streams([views] * times, workers, pin_memory=world.device.type == "cuda")

    @torch.inference_mode()
    def measure(self, model: nn.Module) -> Evaluation:
        """Evaluate on every picture; all ranks must. UserError for a picture without a label, or one of no class."""
        training = model.training
        model.eval()
        began, forward = time.monotonic(), 0.0
        sums = torch.zeros(4, dtype=torch.float64, device=self._world.device)
        bins = torch.zeros(3, BINS, dtype=torch.float64, device=self._world.device)
        for views, labels in next(self._passes):
            started = time.monotonic()
            logits = self._logits(model, views)
            forward += time.monotonic() - started
            target = self._target(labels, logits)
            right = logits.topk(min(5, logits.shape[1]), dim=1).indices == target[:, None]
            loss = nn.functional.cross_entropy(logits, target, reduction="sum")
            sums += torch.stack([right[:, 0].sum(), right.sum(), loss, torch.ones_like(loss) * len(labels)]).double()
            confidence = logits.softmax(dim=1).amax(dim=1)
            place = (confidence * BINS).long().clamp(max=BINS - 1)
            for row, values in zip(bins, (torch.ones_like(confidence), confidence, right[:, 0]), strict=True):
                row.index_add_(0, place, values.double())
        model.train(training)
        sums = torch.cat([sums, sums.new_tensor([forward / self._world.size])])
        top1, top5, loss_sum, images, forward = self._world.sum(sums).tolist()
        _, sure, correct = self._world.sum(bins)
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
        if not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
            raise UserError(
                f"the data has labels {int(labels.min())}..{int(labels.max())}, the model {logits.shape[1]} classes; "
                f"give data with the classes it was trained for"
            )
        return labels.to(logits.device)
