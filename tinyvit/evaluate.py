"""Accuracy of a model on labelled shards, with timm's evaluation preprocessing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data.transforms_factory import transforms_imagenet_eval
from torch import Tensor, nn

from tinyvit.data.images import BrokenImage, decode
from tinyvit.data.loader import run_streams
from tinyvit.data.shards import Sample, list_shards, read_samples
from tinyvit.errors import UserError
from tinyvit.pixels import normalise
from tinyvit.students import colours, input_size, timm_config


@dataclass(frozen=True)
class Evaluation:
    """top1 and top5 in percent, loss in nats, over `images` pictures."""

    top1: float
    top5: float
    loss: float
    images: int
    images_per_s: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-simple."""
        return asdict(self)


@dataclass(frozen=True)
class EvaluationViews:
    """The centre crops of every picture of some shards with their labels, in batches."""

    shards: tuple[Path, ...]
    size: int
    crop_pct: float
    interpolation: str
    batch_size: int

    def read(self, worker: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches (views [B, H, W, 3] uint8, labels [B]) of one worker, the last one shorter."""
        transform = transforms_imagenet_eval(
            img_size=self.size,
            crop_pct=self.crop_pct,
            interpolation=self.interpolation,
            use_prefetcher=True,
        )
        pixels: list[NDArray[np.uint8]] = []
        labels: list[int] = []
        for shard in self.shards[worker :: max(1, workers)]:
            for sample in read_samples(shard):
                # The prefetcher's form of timm's transform ends in uint8, channels first.
                pixels.append(np.asarray(transform(_picture(shard, sample))).transpose(1, 2, 0))
                labels.append(_label(shard, sample))
                if len(pixels) == self.batch_size:
                    yield torch.from_numpy(np.stack(pixels)), torch.tensor(labels)
                    pixels, labels = [], []
        if pixels:
            yield torch.from_numpy(np.stack(pixels)), torch.tensor(labels)


def _picture(shard: Path, sample: Sample) -> Any:
    try:
        return decode(sample.image)
    except BrokenImage as fault:
        raise UserError(f"{shard}: the image of {sample.key!r} cannot be decoded ({fault}); mend it") from None


def _label(shard: Path, sample: Sample) -> int:
    if sample.label is None:
        raise UserError(f"{shard}: {sample.key!r} has no label (.cls); only labelled shards can be evaluated on")
    return sample.label


class Evaluator:
    """Measures one architecture on one folder, as often as asked, with the same data processes."""

    def __init__(
        self,
        model: nn.Module,
        folder: Path,
        device: torch.device,
        workers: int,
        times: int,
        batch_size: int = 250,
    ) -> None:
        config = timm_config(model)
        self._folder, self._device = folder, device
        self._mean, self._std = colours(model)
        views = EvaluationViews(
            tuple(list_shards(folder)),
            input_size(model),
            config["crop_pct"],
            config["interpolation"],
            batch_size,
        )
        self._passes = run_streams([views] * times, workers, pin_memory=device.type == "cuda")

    @torch.inference_mode()
    def measure(self, model: nn.Module) -> Evaluation:
        """Evaluate on every shard. UserError for a picture without a label, or one of no class."""
        device, training = self._device, model.training
        model.eval()
        began, images = time.monotonic(), 0
        total = torch.zeros(3, dtype=torch.float64, device=device)
        for views, labels in next(self._passes):
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                logits = model(normalise(views, self._mean, self._std, device)).float()
            if not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
                raise UserError(
                    f"{self._folder} has labels {int(labels.min())}..{int(labels.max())}, "
                    f"the model {logits.shape[1]} classes; give data with the classes it was trained for"
                )
            target = labels.to(device)
            best = logits.topk(min(5, logits.shape[1]), dim=1).indices == target[:, None]
            loss = nn.functional.cross_entropy(logits, target, reduction="sum")
            total += torch.stack([best[:, 0].sum(), best.sum(), loss]).double()
            images += len(labels)
        model.train(training)
        top1, top5, loss_sum = (total / images).tolist()
        return Evaluation(100 * top1, 100 * top5, loss_sum, images, images / (time.monotonic() - began))


def evaluate(model: nn.Module, folder: Path, device: torch.device, workers: int) -> Evaluation:
    """Evaluate a model once on every shard of a folder."""
    return Evaluator(model, folder, device, workers, times=1).measure(model)
