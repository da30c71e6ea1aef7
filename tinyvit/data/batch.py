"""A training batch, and how it fills up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from logitstore import Rows
from tinyvit.data.render_views import ViewBatch
from tinyvit.targets.signal import TeacherSignal
from tinyvit.views.images import BrokenImage


@dataclass(frozen=True)
class Batch:
    """Training views [n, H, W, 3] uint8, their seeds [n] int64 and what is to be learned of each.

    `signal` is the stored logits, `labels` are the views' own labels in the same form; either is None where nothing
    is learned of it. `teacher_views` are the same views as a live teacher wants them. `skipped` views were left
    out, `labelled` ones lack logits and have their label in its place.
    """

    views: Tensor
    seeds: Tensor
    signal: TeacherSignal | None
    labels: TeacherSignal | None
    teacher_views: Tensor | None
    skipped: int
    labelled: int

    def __len__(self) -> int:
        return len(self.views)

    def pin_memory(self) -> Batch:
        """Called by the loader: page-locked copies, which travel to the GPU while it computes."""
        pinned: dict[str, Any] = {
            name: value.pin_memory() for name, value in vars(self).items() if isinstance(value, Tensor | TeacherSignal)
        }
        return replace(self, **pinned)


@dataclass(frozen=True)
class BatchShape:
    """What a batch has of each view: pixels a side, also as a live teacher wants them, `top_k` stored classes (0: no
    logits), labels, and of a mixed one those of its partner.
    """

    size: int
    teacher_size: int | None
    num_classes: int
    top_k: int
    labels: bool
    mixed: bool


class BatchBuilder:
    """A batch under way."""

    def __init__(self, count: int, shape: BatchShape) -> None:
        # A view has one label, or its partner's as well where views are mixed.
        names = 1 + shape.mixed
        # The student's and the teacher's, which are the same where they are of one size.
        sizes = dict.fromkeys([shape.size, shape.teacher_size or shape.size])
        self.pixels = [np.empty((count, size, size, 3), np.uint8) for size in sizes]
        self.seeds = np.zeros(count, np.int64)
        self.kept = np.zeros(count, bool)
        self.labelled = 0
        self.signal = TargetBuilder(count, max(shape.top_k, names), shape.num_classes)
        self.labels = TargetBuilder(count, names, shape.num_classes)
        self._shape = shape

    def show(self, here: NDArray[np.intp], made: ViewBatch, pixels: NDArray[np.uint8]) -> None:
        """Take the views that could be made."""
        for place, view in zip(here, made.pixels.values(), strict=True):
            if not isinstance(view, BrokenImage):
                pixels[place] = view
                self.kept[place] = True

    def batch(self) -> Batch:
        """The batch, without the views that could not be made."""
        # Not a copy where all are kept.
        kept = slice(None) if self.kept.all() else np.flatnonzero(self.kept)
        pixels = [torch.from_numpy(array[kept]) for array in self.pixels]
        return Batch(
            views=pixels[0],
            seeds=torch.from_numpy(self.seeds[kept]),
            signal=self.signal.of(kept) if self._shape.top_k else None,
            labels=self.labels.of(kept) if self._shape.labels else None,
            teacher_views=pixels[-1] if self._shape.teacher_size else None,
            skipped=int((~self.kept).sum()),
            labelled=self.labelled,
        )


class TargetBuilder:
    """What is to be learned of the views of a batch under way."""

    def __init__(self, count: int, entries: int, num_classes: int) -> None:
        self._class_id = np.zeros((count, entries), np.int64)
        self._probability = np.zeros((count, entries), np.float32)
        self._residual = np.zeros(count, np.float32)
        self._num_classes = num_classes

    def take_rows(self, here: NDArray[np.intp], rows: Rows, slots: NDArray[np.intp]) -> None:
        """What the teacher said of these views."""
        entries = rows.class_id.shape[1]
        self._class_id[here, :entries] = rows.class_id[slots]
        self._probability[here, :entries] = rows.probability[slots]
        self._residual[here] = rows.residual[slots]

    def label(self, here: int, classes: list[int], shares: list[float]) -> None:
        """A view's own label, and that of the one it is mixed with."""
        self._class_id[here] = classes[0]
        self._class_id[here, : len(classes)] = classes
        self._probability[here, : len(classes)] = shares

    def of(self, kept: slice | NDArray[np.intp]) -> TeacherSignal:
        """What is to be learned of the views that are kept."""
        arrays = (self._class_id, self._probability, self._residual)
        class_id, probability, residual = (torch.from_numpy(array[kept]) for array in arrays)
        return TeacherSignal(class_id, probability, residual, self._num_classes)
