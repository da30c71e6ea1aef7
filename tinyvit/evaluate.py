"""Accuracy of a model on labelled shards, with timm's evaluation preprocessing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.transforms_factory import transforms_imagenet_eval
from torch import Tensor, nn

from tinyvit.data.images import BrokenImage, EncodedImage
from tinyvit.data.index import ShardIndex, index_shards
from tinyvit.data.join import IndexedShard
from tinyvit.data.loader import run_streams
from tinyvit.data.shards import Sample
from tinyvit.errors import UserError
from tinyvit.pixels import normalise
from tinyvit.progress import Progress
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

    index: ShardIndex
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
        parts = [
            (shard, range(first, min(first + self.batch_size, shard.samples)))
            for shard in self.index.shards()
            for first in range(0, shard.samples, self.batch_size)
        ]
        for shard, slots in parts[worker::workers]:
            samples = shard.read(slots)
            # The prefetcher's form of timm's transform ends in uint8, channels first.
            pixels = [np.asarray(transform(_picture(shard, sample))).transpose(1, 2, 0) for sample in samples]
            yield torch.from_numpy(np.stack(pixels)), torch.tensor([_label(shard, sample) for sample in samples])


def _picture(shard: IndexedShard, sample: Sample) -> Image.Image:
    try:
        return Image.fromarray(EncodedImage(sample.image).pixels())
    except BrokenImage as fault:
        raise UserError(f"{shard.path}: the image of {sample.key!r} cannot be decoded ({fault}); mend it") from None


def _label(shard: IndexedShard, sample: Sample) -> int:
    if sample.label is None:
        raise UserError(f"{shard.path}: {sample.key!r} has no label (.cls); only labelled shards can be evaluated on")
    return sample.label


class Evaluator:
    """Measures one architecture on one folder, as often as asked, with the same data processes."""

    def __init__(
        self,
        model: nn.Module,
        data: str | Path,
        device: torch.device,
        workers: int,
        times: int,
        progress: Progress,
        batch_size: int = 250,
    ) -> None:
        config = timm_config(model)
        self._data, self._device = data, device
        self._mean, self._std = colours(model)
        views = EvaluationViews(
            index_shards(data, progress),
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
                    f"{self._data} has labels {int(labels.min())}..{int(labels.max())}, "
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


def evaluate(model: nn.Module, data: str | Path, device: torch.device, workers: int, progress: Progress) -> Evaluation:
    """Evaluate a model once on every shard of a data set."""
    return Evaluator(model, data, device, workers, 1, progress).measure(model)
