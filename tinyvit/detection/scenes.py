"""The images of a set in batches: in a random order and flipped by chance to train on, as they are to measure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tinyvit.data.order import BatchPartition
from tinyvit.detection.coco import CocoSet, Target


@dataclass(frozen=True)
class Scenes:
    """A batch: images [3, H, W] uint8 of any sizes, and in training what is in them."""

    images: list[Tensor]
    targets: list[Target]
    skipped: int = 0
    labelled: int = 0

    def __len__(self) -> int:
        return len(self.images)

    def pin_memory(self) -> Scenes:
        """Called by the loader: page-locked copies, which travel to the GPU while it computes."""
        targets = [{name: value.pin_memory() for name, value in target.items()} for target in self.targets]
        return Scenes([image.pin_memory() for image in self.images], targets)


@dataclass(frozen=True)
class TrainingScenes:
    """One epoch, `batch_size` images a step on all ranks together, each rank's share in `grad_accum_steps` batches.

    The order and which images are flipped (with the probability `hflip`) follow from `seed` and `epoch`. `start`
    images of the epoch were taken before.
    """

    coco: CocoSet
    batch_size: int
    epoch: int
    seed: int
    masks: bool
    hflip: float
    rank: int = 0
    world_size: int = 1
    grad_accum_steps: int = 1
    start: int = 0

    @property
    def partition(self) -> BatchPartition:
        """What of the order this rank reads, and when."""
        return BatchPartition(
            len(self.coco), self.batch_size, self.rank, self.world_size, self.grad_accum_steps, self.start
        )

    @property
    def steps(self) -> int:
        """How many steps are left."""
        return self.partition.steps

    @property
    def items(self) -> int:
        """How many batches this rank reads."""
        return self.partition.items

    @property
    def left_out(self) -> int:
        """How many images fill no whole step."""
        return len(self.coco) - self.start - self.steps * self.batch_size

    def read(self, worker: int, workers: int) -> Iterator[Scenes]:
        """The batches of one worker of this rank."""
        rng = np.random.default_rng([self.seed, self.epoch])
        order, flips = rng.permutation(len(self.coco)), rng.random(len(self.coco)) < self.hflip
        for number in range(worker, self.items, workers):
            span = self.partition.span(number)
            made = [self._made(place, bool(flips[place])) for place in order[span.start : span.stop].tolist()]
            yield Scenes([image for image, _ in made], [target for _, target in made])

    def keys(self, step: int) -> list[str]:
        """The files that this rank takes in a step, for a message."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.coco))
        places = np.concatenate([order[span.start : span.stop] for span in self.partition.spans(step)])
        return [self.coco.file_name(place) for place in places.tolist()]

    def _made(self, number: int, flip: bool) -> tuple[Tensor, Target]:
        image = torch.from_numpy(self.coco.image(number)).permute(2, 0, 1)
        target = self.coco.target(number, self.masks)
        if flip:
            width = image.shape[2]
            image = image.flip(2)
            left, right = target["boxes"][:, 0].clone(), target["boxes"][:, 2].clone()
            target["boxes"][:, 0], target["boxes"][:, 2] = width - right, width - left
            if "masks" in target:
                target["masks"] = target["masks"].flip(2)
        return image.contiguous(), target


@dataclass(frozen=True)
class EvaluationScenes:
    """The images of a set in their order."""

    coco: CocoSet
    batch_size: int

    @property
    def spans(self) -> list[range]:
        """The batches."""
        count = len(self.coco)
        return [range(first, min(first + self.batch_size, count)) for first in range(0, count, self.batch_size)]

    @property
    def items(self) -> int:
        """How many there are."""
        return len(self.spans)

    def read(self, worker: int, workers: int) -> Iterator[Scenes]:
        """The batches of one worker, without targets."""
        for span in self.spans[worker::workers]:
            yield Scenes([torch.from_numpy(self.coco.image(n)).permute(2, 0, 1).contiguous() for n in span], [])
