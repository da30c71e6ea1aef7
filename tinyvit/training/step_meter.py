"""What a stage has done so far: counted on the device, without waiting for it, and added up over all ranks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from tinyvit.runtime.distributed import World
from tinyvit.runtime.memory import peak_mib
from tinyvit.training.task import Batch

# Those of the totals that the device counts.
COUNTED = ("loss", "agreed", "images", "skipped", "labelled", "dropped")


@dataclass(frozen=True)
class EpochTotals:
    """Sums over steps: of the views' losses in nats, of those on which the student was right, of views.

    `skipped` views were left out, `labelled` ones had their label in place of logits, `dropped` steps were not
    finite. `seconds` are those of the work, `waited` those of them without data, both of the first rank.
    """

    loss: float = 0.0
    agreed: float = 0.0
    images: float = 0.0
    skipped: float = 0.0
    labelled: float = 0.0
    dropped: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0

    def since(self, earlier: EpochTotals) -> EpochTotals:
        """What was added after an earlier state."""
        return EpochTotals(*(getattr(self, f.name) - getattr(earlier, f.name) for f in fields(self)))

    def means(self, right: str | None) -> dict[str, Any]:
        """For people: the loss of a view, how many were right in percent (by this name), rates, counts."""
        images = max(self.images, 1.0)
        return {
            "loss": self.loss / images,
            **({right: 100 * self.agreed / images} if right else {}),
            "images": int(self.images),
            "skipped": int(self.skipped),
            "labelled": int(self.labelled),
            "dropped_steps": int(self.dropped),
            "images_per_s": self.images / max(self.seconds, 1e-9),
            "waiting_for_data": self.waited / max(self.seconds, 1e-9),
        }


class StepMeter:
    """Counts of one rank in an epoch under way; `totals` are those of all ranks at the last look."""

    def __init__(self, world: World, begun: EpochTotals, scaled: bool) -> None:
        self.totals = begun
        self._world, self._scaled = world, scaled
        # What was counted before a restart is the first rank's, or it would count once a rank.
        mine = begun if world.is_main else EpochTotals()
        self._seconds, self._waited, self._mark = mine.seconds, mine.waited, time.monotonic()
        self._sums = torch.tensor([getattr(mine, name) for name in COUNTED], dtype=torch.float64, device=world.device)
        self._loss = torch.zeros((), device=world.device)
        self._losses: list[Tensor] = []
        self._waits = _DeviceWaits() if world.device.type == "cuda" else _Waits()

    def next_batch(self, batches: Iterator[Batch]) -> Batch:
        """The next batch, with the time that the device had nothing to do for the want of it."""
        with self._waits:
            return next(batches)

    def add(self, loss: Tensor, agreed: Tensor, batch: Batch) -> None:
        """Count a batch by the losses [n] and agreements [n] of its views."""
        total = loss.detach().sum()
        finite = total.isfinite()
        self._sums[:3] += torch.stack([total.nan_to_num(0, 0, 0), agreed.sum() * finite, len(batch) * finite]).double()
        if batch.skipped or batch.labelled:
            self._sums[3:5] += torch.tensor([batch.skipped, batch.labelled]).to(self._sums)
        self._loss = self._loss + total

    def end_step(self, norm: Tensor) -> None:
        """Count a step by the norm of its gradient, which tells every rank when the loss of one is not finite.

        With float16 it does not: a gradient that overflows is what the scaler is for.
        """
        self._sums[5] += ~self._loss.isfinite() if self._scaled else ~norm.isfinite() / self._world.size
        self._losses.append(self._loss)
        self._loss = torch.zeros_like(self._loss)
        self._spend()

    def synchronise(self) -> tuple[EpochTotals, list[bool]]:
        """What all ranks did since the last look, and whether this one's loss was finite in each step of it.

        All ranks must look. Waits for the device.
        """
        sums = self._world.all_reduce_sum(self._sums).tolist()
        # A GPU is a step or more behind: what it still had to do is time of the steps.
        self._spend()
        self._waited += self._waits.idle()
        before, self.totals = self.totals, EpochTotals(*(*sums, self._seconds, self._waited))
        finite = torch.stack(self._losses).isfinite().tolist() if self._losses else []
        self._losses = []
        return self.totals.since(before), finite

    def _spend(self) -> None:
        """Count the time since it was last counted."""
        mark, self._mark = self._mark, time.monotonic()
        self._seconds += self._mark - mark

    def restart_clock(self) -> None:
        """What was done since the last step, such as saving, is not counted as its time."""
        self._mark = time.monotonic()


class _Waits:
    """For how long there was nothing to compute on: what is entered is a wait for data."""

    def __init__(self) -> None:
        self._seconds, self._asked = 0.0, 0.0

    def __enter__(self) -> None:
        self._asked = time.monotonic()

    def __exit__(self, *_fault: object) -> None:
        self._seconds += time.monotonic() - self._asked

    def idle(self) -> float:
        """Seconds since this was last asked, once the device has done what it was given."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


class _DeviceWaits(_Waits):
    """The same of a GPU, which goes on with what it was given while this process waits: only what lies between the end
    of that and the batch counts.
    """

    def __init__(self) -> None:
        super().__init__()
        self._marks: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def __enter__(self) -> None:
        done, there = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._marks.append((done, there))
        done.record()

    def __exit__(self, *_fault: object) -> None:
        self._marks[-1][1].record()

    def idle(self) -> float:
        marks, self._marks = self._marks, []
        return float(sum(done.elapsed_time(there) for done, there in marks)) / 1000


def peak_memory_mib(device: torch.device) -> int:
    """The most memory so far: of the GPU, or on a CPU of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) // 2**20
    return peak_mib()
