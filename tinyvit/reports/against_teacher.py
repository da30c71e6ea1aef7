"""A student against the teacher it learned from: its own logits for views whose stored logits are known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from logitstore import LogitStore
from tinyvit.data.index import ShardIndex
from tinyvit.data.loader import run_stream
from tinyvit.data.render_views import render_views
from tinyvit.labelling.describe import stored_augment, stored_decode
from tinyvit.models import input_size, mean_std
from tinyvit.reports.sampled_rows import SampledRows
from tinyvit.runtime.distributed import default_device
from tinyvit.runtime.progress import Progress
from tinyvit.views.images import BrokenImage
from tinyvit.views.pixels import normalise

# Views that are made and answered together.
TOGETHER = 32


@dataclass(frozen=True)
class Against:
    """The best classes of teacher and student [N] for the same views; `among_five` is the share of views, in percent,
    in which the teacher's is one of the student's best five.
    """

    teacher: NDArray[np.intp]
    student: NDArray[np.intp]
    among_five: float

    @property
    def agreement(self) -> float:
        """Percent of the views."""
        return 100 * float((self.teacher == self.student).mean())

    def confusions(self, most: int) -> list[tuple[int, int, int]]:
        """(the teacher's class, the student's, views) of the pairs that differ, the most frequent first."""
        differ = self.teacher != self.student
        pairs, counts = np.unique(
            np.stack([self.teacher[differ], self.student[differ]], axis=1), axis=0, return_counts=True
        )
        order = np.argsort(-counts, kind="stable")[:most]
        return [(*pairs[number].tolist(), int(counts[number])) for number in order]

    def among(self, most: int) -> tuple[list[int], NDArray[np.intp], NDArray[np.intp]]:
        """The classes that the teacher names most, and both predictions as places among them, all others last."""
        ids, counts = np.unique(self.teacher, return_counts=True)
        first = ids[np.argsort(-counts, kind="stable")][:most].tolist()
        place = {class_id: number for number, class_id in enumerate(first)}
        teacher, student = (
            np.array([place.get(class_id, len(first)) for class_id in sampled.tolist()], np.intp)
            for sampled in (self.teacher, self.student)
        )
        return first, teacher, student


@torch.inference_mode()
def compare(
    student: nn.Module, sampled: SampledRows, store: LogitStore, index: ShardIndex, progress: Progress
) -> Against | None:
    """Ask a student of the teacher's classes about the views of these rows, made at its own size; None where none of
    their images can be decoded.
    """
    device = default_device()
    model, (mean, std) = student.eval().to(device), mean_std(student)
    places = [
        (epoch, shard, [int(sampled.slot[row]) for row in rows])
        for (epoch, shard), rows in groupby(
            np.lexsort((sampled.slot, sampled.shard, sampled.epoch)).tolist(),
            key=lambda row: (int(sampled.epoch[row]), int(sampled.shard[row])),
        )
    ]
    best = {
        (int(e), int(s), int(slot)): int(c)
        for e, s, slot, c in zip(sampled.epoch, sampled.shard, sampled.slot, sampled.best, strict=True)
    }
    teacher, own, among = [], [], 0
    with progress.task("student", len(sampled), "views") as bar:
        # In a process of its own: threads of others draw from the generators that a view is made with.
        for places_of, views in run_stream(_Shown(index, store.location, places, input_size(student)), workers=1):
            first = model(normalise(views, mean, std, device)).topk(min(5, store.spec.num_classes), dim=1).indices.cpu()
            for (epoch, shard, slot), classes in zip(places_of.tolist(), first.tolist(), strict=True):
                said = best[epoch, shard, slot]
                teacher.append(said)
                own.append(classes[0])
                among += said in classes
            bar.advance(len(views))
    if not teacher:
        return None
    return Against(np.array(teacher, np.intp), np.array(own, np.intp), 100 * among / len(teacher))


@dataclass(frozen=True)
class _Shown:
    """Views of (epoch, shard, slots), as many as can be made."""

    index: ShardIndex
    location: str
    places: list[tuple[int, int, list[int]]]
    size: int

    def read(self, worker: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches: (epoch, shard, slot) of each view [n, 3], views [n, H, W, 3] uint8."""
        store = LogitStore.open(self.location)
        augment, decode = stored_augment(store), stored_decode(store)
        for epoch, number, slots in self.places[worker::workers]:
            shard, seeds = self.index.shard(number), store.read(epoch, number).seed
            for first in range(0, len(slots), TOGETHER):
                made = render_views(shard, slots[first : first + TOGETHER], seeds, augment, decode, self.size).pixels
                whole = {slot: view for slot, view in made.items() if not isinstance(view, BrokenImage)}
                if whole:
                    names = torch.tensor([(epoch, number, slot) for slot in whole])
                    yield names, torch.from_numpy(np.stack(list(whole.values())))
