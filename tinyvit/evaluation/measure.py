"""Accuracy, loss and calibration of a model on labelled images, and its speed."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from threading import Event
from typing import Any

import torch
from torch import Tensor, nn

from tinyvit.classes import class_index_map
from tinyvit.data.loader import run_stream, run_streams
from tinyvit.errors import UserError
from tinyvit.evaluation.eval_model import EvalModel
from tinyvit.evaluation.images import LabelledImages
from tinyvit.evaluation.matching import Matching
from tinyvit.evaluation.views import EvaluationViews, UsableViews
from tinyvit.runtime.distributed import World
from tinyvit.runtime.foreign import foreign
from tinyvit.runtime.progress import Bar, Progress
from tinyvit.targets.signal import refuse_probabilities, valid_logits
from tinyvit.views.pixels import normalise

# Of the confidence, for the calibration error (Guo et al. 2017 use 15).
BINS = 15


@dataclass(frozen=True)
class Evaluation:
    """top1, top5 and the expected calibration error in percent, over `images` images; loss in nats, over those of
    classes that the network has; None where there are none, and where it calls what is right impossible.

    The network chooses among `classes` classes, of which `classes_seen` have images. It does not have
    `unknown_classes` of the data's, and so is wrong about `unknown_images` images. Left out are `unlabelled`
    images, for which a set calls no class right, and `broken` ones. `images_per_s` is the rate of everything,
    `forward_images_per_s` that of the network alone, on all devices.
    """

    top1: float
    top5: float
    loss: float | None
    calibration_error: float
    images: int
    images_per_s: float
    forward_images_per_s: float
    classes: int
    classes_seen: int
    unknown_classes: int
    unknown_images: int
    unlabelled: int
    broken: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-simple."""
        return asdict(self)


def evaluate(
    subject: EvalModel,
    sets: Sequence[LabelledImages],
    world: World,
    workers: int,
    dtype: torch.dtype,
    progress: Progress,
    title: str,
    **options: Any,
) -> list[Evaluation]:
    """Measure a network on each of some sets, while a bar of this title goes on; `options` are Evaluator's."""
    evaluator = Evaluator(subject, sets, world, workers, dtype, **options)
    with progress.task(title, sum(sum(images.counts) for images in sets), "images") as bar:
        return [evaluator.measure(subject.model, bar) for _ in sets]


class Evaluator:
    """Measures models of one kind, each time on the next of some sets of images of the same classes, with the same
    data processes.

    Classes are matched by name (tinyvit/classes.py), and are taken for the network's own numbers where names are not
    known. The network chooses among all its classes, with `restrict` only among those of the data, as the protocols of
    some published sets have it. `stop` as in `run_streams`.
    """

    def __init__(
        self,
        subject: EvalModel,
        sets: Sequence[LabelledImages],
        world: World,
        workers: int,
        dtype: torch.dtype,
        restrict: bool = False,
        skip_broken: bool = False,
        batch_size: int = 250,
        stop: Event | None = None,
    ) -> None:
        self._world, self._workers, self._dtype = world, workers, dtype
        self._mean, self._std = subject.mean, subject.std
        numbers = class_index_map(sets[0].classes, subject.classes)
        if restrict and numbers is None:
            raise UserError(
                "the classes of the network or of the data have no names, so it cannot be held to the data's"
            )
        self._matching = Matching.of(numbers, restrict, world.device)
        self._streams = [
            EvaluationViews(
                images=images,
                size=subject.size,
                crop_pct=subject.crop_pct,
                crop_mode=subject.crop_mode,
                interpolation=subject.interpolation,
                batch_size=batch_size,
                decode=subject.decode,
                skip_broken=skip_broken,
                rank=world.rank,
                world=world.size,
            )
            for images in sets
        ]
        self._passes = run_streams(self._streams, workers, world.device.type == "cuda", stop)

    def check_images(self, classes: int, progress: Progress) -> None:
        """Look whether the images of the first set can be measured on by a network of so many classes, before hours
        are spent. UserError where not.
        """
        looked_at = UsableViews(self._streams[0], self._matching.labels or classes)
        counts = torch.zeros(2, dtype=torch.float64, device=self._world.device)
        with progress.task("check validation", sum(len(span) for _, span in self._streams[0].spans), "images") as bar:
            for images, usable in run_stream(looked_at, self._workers):
                counts += counts.new_tensor([images, usable])
                bar.advance(images)
        images, usable = self._world.all_reduce_sum(counts).tolist()
        if not usable:
            raise UserError(f"none of the {images:.0f} images for validation can be used; give others, or none")

    @torch.inference_mode()
    def measure(self, model: nn.Module, bar: Bar | None = None) -> Evaluation:
        """Evaluate on every image that has a right class; all ranks must. `bar` is told of each batch.

        UserError for an image of a class that there is not, or where there is nothing to evaluate on.
        """
        training = model.training
        model.eval()
        began, forward = time.monotonic(), 0.0
        sums = torch.zeros(7, dtype=torch.float64, device=self._world.device)
        bins = torch.zeros(3, BINS, dtype=torch.float64, device=self._world.device)
        told_apart, seen = 0, list[Tensor]()
        for views, labels, unlabelled, broken in next(self._passes):
            sums[5:] += sums.new_tensor([unlabelled, broken])
            if not len(labels):
                continue
            started = time.monotonic()
            logits = self._logits(model, views)
            forward += time.monotonic() - started
            if not told_apart:
                refuse_probabilities(logits, "the network")
            if wrong := int((~valid_logits(logits)).sum()):
                raise UserError(
                    f"the network's logits for {wrong} of {len(logits)} images are NaN or infinite; look at its "
                    f"weights, its mean and std, and the precision"
                )
            target = self._matching.target(labels.to(logits.device), logits.shape[1])
            logits = self._matching.told_apart(logits)
            told_apart = logits.shape[1]
            best = logits.topk(min(5, told_apart), dim=1).indices
            right = (best[:, :, None] == target[:, None, :]).any(dim=2)
            known = (target >= 0).any(dim=1)
            seen.append(target[target >= 0])
            # Of the mass on all classes that are right: cross-entropy where it is one.
            mass = logits.log_softmax(dim=1).gather(1, target.clamp(min=0)).masked_fill(target < 0, -torch.inf)
            loss = -mass.logsumexp(dim=1).masked_fill(~known, 0.0).sum()
            counted = (right[:, 0].sum(), right.any(dim=1).sum(), loss, known.sum(), (~known).sum())
            sums[:5] += torch.stack([value.double() for value in counted])
            confidence = logits.softmax(dim=1).amax(dim=1)
            place = (confidence * BINS).long().clamp(max=BINS - 1)
            for row, values in zip(bins, (torch.ones_like(confidence), confidence, right[:, 0]), strict=True):
                row.index_add_(0, place, values.double())
            if bar:
                bar.advance(len(labels))
        model.train(training)
        sums = torch.cat([sums, sums.new_tensor([forward / self._world.size])])
        top1, top5, loss_sum, known_images, unknown_images, unlabelled, broken, forward = self._world.all_reduce_sum(
            sums
        ).tolist()
        _, sure, correct = self._world.all_reduce_sum(bins)
        images = known_images + unknown_images
        told_apart = self._world.all_reduce_max(told_apart)
        of_classes = torch.zeros(told_apart, dtype=torch.float64, device=self._world.device)
        for classes in seen:
            of_classes[classes] = 1
        classes_seen = int((self._world.all_reduce_sum(of_classes) > 0).sum())
        if not images:
            raise UserError(
                f"none of the images can be evaluated on: {unlabelled:.0f} have no right class, {broken:.0f} cannot "
                f"be decoded; give others"
            )
        seconds = time.monotonic() - began
        return Evaluation(
            top1=100 * top1 / images,
            top5=100 * top5 / images,
            loss=loss_sum / known_images if known_images and math.isfinite(loss_sum) else None,
            calibration_error=100 * float((sure - correct).abs().sum()) / images,
            images=int(images),
            images_per_s=images / seconds,
            forward_images_per_s=images / forward,
            classes=told_apart,
            classes_seen=classes_seen,
            unknown_classes=self._matching.unknown_classes,
            unknown_images=int(unknown_images),
            unlabelled=int(unlabelled),
            broken=int(broken),
        )

    def _logits(self, model: nn.Module, views: Tensor) -> Tensor:
        device = self._world.device
        autocast = torch.autocast(device.type, self._dtype, enabled=self._dtype != torch.float32)
        with foreign(f"the network gives no logits for {len(views)} images", "mend it"), autocast:
            logits: Tensor = model(normalise(views, self._mean, self._std, device)).float()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return logits
