"""Labelled images as a network is shown them for evaluation, in batches: prepared as timm does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.transforms_factory import transforms_imagenet_eval
from torch import Tensor

from tinyvit.cache import Ahead
from tinyvit.config import Decode
from tinyvit.errors import UserError
from tinyvit.evaluation.images import Labelled, LabelledImages
from tinyvit.views.images import BrokenImage, EncodedImage


class EvaluationBatch(NamedTuple):
    """Centre crops `views` [n, H, W, 3] uint8, and the classes that are right `labels` [n, L], filled up with -1.

    Left out are `unlabelled` images for which none is right and `broken` ones that cannot be decoded.
    """

    views: Tensor
    labels: Tensor
    unlabelled: int
    broken: int


@dataclass(frozen=True)
class EvaluationViews:
    """The centre crops of images, read as `decode` says, of which each of `world` ranks takes a share."""

    images: LabelledImages
    size: int
    crop_pct: float
    crop_mode: str
    interpolation: str
    batch_size: int
    decode: Decode
    skip_broken: bool = False
    rank: int = 0
    world: int = 1

    @property
    def items(self) -> int:
        """How many batches this rank reads."""
        return len(self.spans)

    @property
    def spans(self) -> list[tuple[int, range]]:
        """The part of each batch that this rank reads, and where it is in the part."""
        found = [span for part in range(len(self.images.counts)) for span in self.spans_of(part)]
        return found[self.rank :: self.world]

    def spans_of(self, part: int) -> list[tuple[int, range]]:
        """The batches of a part."""
        count, size = self.images.counts[part], self.batch_size
        return [(part, range(first, min(first + size, count))) for first in range(0, count, size)]

    def read(self, worker: int, workers: int) -> Iterator[EvaluationBatch]:
        """Batches of one worker, as `batch` makes them."""
        with self.ahead() as ahead:
            for span in self.spans[worker::workers]:
                ahead.reached(span[0])
                yield self.batch(span)

    def ahead(self) -> Ahead:
        """What has parts fetched before they are read."""
        return Ahead([self.images.wanted(part) for part in range(len(self.images.counts))])

    def batch(self, span: tuple[int, range]) -> EvaluationBatch:
        """Some images of a part; there may be none left. UserError for one without a label, and for one that is
        broken unless such are to be skipped.
        """
        labels = list[tuple[int, ...]]()
        unlabelled = broken = 0
        views = np.zeros((len(span[1]), self.size, self.size, 3), np.uint8)
        for image in self.images.read(*span):
            right = _labels(image)
            if not right:
                unlabelled += 1
                continue
            try:
                views[len(labels)] = self._prepared(image)
            except BrokenImage as fault:
                if not self.skip_broken:
                    raise broken_image(image, fault) from fault
                broken += 1
                continue
            labels.append(right)
        most = max(map(len, labels), default=1)
        filled = [[*right, *[-1] * (most - len(right))] for right in labels]
        return EvaluationBatch(
            torch.from_numpy(views[: len(labels)]),
            torch.tensor(filled, dtype=torch.int64).view(len(labels), most),
            unlabelled,
            broken,
        )

    def _prepared(self, image: Labelled) -> NDArray[np.uint8]:
        decoded = _decoded(image, self.decode)
        try:
            # The prefetcher's form of timm's transform ends in uint8, channels first.
            return np.asarray(self._transform(decoded)).transpose(1, 2, 0)
        except Exception as fault:
            raise UserError(
                f"{image.name} of {decoded.width} x {decoded.height} pixels cannot be prepared "
                f"({type(fault).__name__}: {fault}); take it out"
            ) from fault

    @cached_property
    def _transform(self) -> Any:
        return transforms_imagenet_eval(
            img_size=self.size,
            crop_pct=self.crop_pct,
            crop_mode=self.crop_mode,
            interpolation=self.interpolation,
            use_prefetcher=True,
        )


@dataclass(frozen=True)
class UsableViews:
    """Whether images can be evaluated on, looked at without a network: a stream of how many each batch has, and how
    many of them can be: those without a right class cannot, nor broken ones where these are skipped.
    """

    views: EvaluationViews
    # Labels must be below it.
    classes: int

    def read(self, worker: int, workers: int) -> Iterator[tuple[int, int]]:
        """Of one worker. UserError as `EvaluationViews.batch`, and for a label that is too large."""
        with self.views.ahead() as ahead:
            for span in self.views.spans[worker::workers]:
                ahead.reached(span[0])
                yield self._looked(span)

    def _looked(self, span: tuple[int, range]) -> tuple[int, int]:
        usable = 0
        for image in (images := self.views.images.read(*span)):
            if (wrong := max(_labels(image), default=0)) >= self.classes:
                raise UserError(
                    f"{image.name} has the label {wrong}, but there are {self.classes} classes; mend it, or the "
                    f"list of classes"
                )
            try:
                _decoded(image, self.views.decode)
                usable += bool(image.labels)
            except BrokenImage as fault:
                if not self.views.skip_broken:
                    raise broken_image(image, fault) from fault
        return len(images), usable


def _labels(image: Labelled) -> tuple[int, ...]:
    if image.labels is None or min(image.labels, default=0) < 0:
        raise UserError(f"{image.name} has no label (.cls); only labelled images can be evaluated on")
    return image.labels


def _decoded(image: Labelled, decode: Decode) -> Image.Image:
    return Image.fromarray(EncodedImage(image.content, decode).pixels())


def broken_image(image: Labelled, fault: BrokenImage) -> UserError:
    """That an image cannot be decoded."""
    return UserError(
        f"{image.name} cannot be decoded ({fault}); mend it, or leave such images out: data.broken=skip in a "
        f"recipe, --skip-broken of `tinyvit evaluate`"
    )
