"""One step of training, repeated on a batch that lies on the device: ours, timm's, ours with the live teacher."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import timm
import torch
from timm.data.loader import PrefetchLoader
from timm.optim import create_optimizer_v2

from benchmarks.gpu.jobs import Clock
from benchmarks.gpu.peak import synchronise
from benchmarks.gpu.settings import CLASSES, STAGE, TOP_K, Settings
from logitstore import LogitStore
from tinyvit.data.batch import Batch
from tinyvit.errors import UserError
from tinyvit.models import create_student, tuples
from tinyvit.models.teachers import Teacher
from tinyvit.runtime.distributed import default_device
from tinyvit.runtime.progress import SilentProgress
from tinyvit.targets.signal import TeacherSignal
from tinyvit.tasks.distillation import DistillationTask
from tinyvit.tasks.run import open_run
from tinyvit.tasks.signals import LiveSignals, StoredSignals
from tinyvit.training.folder import StageFolder
from tinyvit.training.model_runner import precision_of
from tinyvit.training.step_meter import EpochTotals, peak_memory_mib
from tinyvit.training.trainer import Trainer

# So many steps of one kind.
Steps = Callable[[int], None]


def resident_batch(settings: Settings, size: int) -> Batch:
    """Random views and signals, on the device."""
    device = default_device()
    generator = torch.Generator(device).manual_seed(0)
    shape = (size, settings.size, settings.size, 3)
    views = torch.randint(0, 256, shape, dtype=torch.uint8, device=device, generator=generator)
    logits = 3 * torch.randn(size, CLASSES, device=device, generator=generator)
    signal = TeacherSignal.from_logits(logits, TOP_K)
    return Batch(views, torch.arange(size), signal, None, None, skipped=0, labelled=0)


@dataclass(frozen=True)
class _Resident:
    """In place of an epoch's views: so many steps of a batch that is there."""

    batch: Batch
    steps: int
    start: int = 0
    rank: int = 0
    left_out: int = 0

    @property
    def items(self) -> int:
        return self.steps

    def read(self, worker: int, workers: int) -> Iterator[Batch]:
        return repeat(self.batch, self.steps)

    def keys(self, step: int) -> list[str]:
        return ["a batch of random views"]


class Ours:
    """The engine's own loop over steps, with all that it does besides: schedule, counting, looking for faults."""

    def __init__(self, settings: Settings, student: str, batch: Batch) -> None:
        recipe = settings.recipe(student, len(batch), "engine.compile=false")
        self._run = open_run(recipe, settings.folder / "runs", [STAGE], 0, SilentProgress())
        stored = replace(self._run, signals=StoredSignals(LogitStore.open(str(settings.store))))
        self._stored, self._batch = DistillationTask(stored, STAGE, None), batch
        folder = StageFolder(settings.folder / "runs" / STAGE, digest="")
        self._trainer = Trainer(stored, STAGE, folder, self._stored)

    def __call__(self, steps: int) -> None:
        """Learn the logits of the batch, so many times."""
        self._train(self._stored, self._batch, steps)

    def with_teacher(self, teacher: Teacher) -> Steps:
        """The same step, which asks the teacher first; the same network learns."""
        task = DistillationTask(replace(self._run, signals=LiveSignals(teacher, self._run.recipe.label)), STAGE, None)
        batch = replace(self._batch, signal=None, teacher_views=self._batch.views)
        return lambda steps: self._train(task, batch, steps)

    def compile(self, options: Mapping[str, Any]) -> None:
        """Compile the network as `engine.compile` does, with these options."""
        self._trainer.network._forward = torch.compile(self._trainer.network.model, **options)

    def _train(self, task: DistillationTask, batch: Batch, steps: int) -> None:
        trainer = self._trainer
        trainer.task, trainer.step, trainer.totals = task, 0, EpochTotals()
        views = _Resident(batch, steps)
        trainer._train_epoch(views, views.read(0, 1), None, SilentProgress())


class Timms:
    """A step as timm's train.py does it, of the same network on the same views, which timm's prefetcher normalises."""

    def __init__(self, settings: Settings, student: str, batch: Batch) -> None:
        recipe = settings.recipe(student, len(batch))
        self._stage, self._device = recipe.stages[STAGE], default_device()
        self._dtype = precision_of("auto", self._device)
        arguments = tuples(recipe.student.kwargs)
        # TinyViT takes any size and has no such argument.
        arguments.pop("img_size", None)
        model: Any = timm.create_model(recipe.student.name, num_classes=CLASSES, **arguments)
        self._model = model.to(self._device).to(memory_format=torch.channels_last).train()
        self._optimiser = create_optimizer_v2(
            self._model, opt="adamw", lr=self._stage.lr, weight_decay=self._stage.weight_decay, fused=True
        )
        self._criterion = torch.nn.CrossEntropyLoss()
        self._forward: Any = self._model
        assert batch.signal
        self._pair = (batch.views.permute(0, 3, 1, 2).contiguous(), batch.signal.class_id[:, 0].clone())
        # One loader: each has a stream of its own, and the memory that it used is for no other.
        self._pairs: list[Any] = []
        self._loader = PrefetchLoader(self._pairs, device=self._device)  # type: ignore[arg-type]

    def __call__(self, steps: int) -> None:
        """Learn labels of the batch, so many times."""
        self._pairs[:] = [self._pair] * steps
        for pixels, labels in self._loader:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
                loss = self._criterion(self._forward(pixels), labels)
            loss.backward()
            if self._stage.clip_grad:
                torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._stage.clip_grad)
            self._optimiser.step()
            self._optimiser.zero_grad()

    def compile(self, options: Mapping[str, Any]) -> None:
        """As ours."""
        self._forward = torch.compile(self._model, **options)


@dataclass(frozen=True)
class Measured:
    """Images a second (the median of some rounds) and the most memory, MiB."""

    images_per_s: float
    memory_mib: int
    rounds: int


def in_turns(
    ways: Mapping[str, Steps], batch_size: int, settings: Settings, clock: Clock, most: int | None = None
) -> dict[str, Measured]:
    """Every way in turn, round after round while there is time, so that whatever troubles the machine troubles all.

    At `most` so many rounds.
    """
    device, count = default_device(), settings.steps(batch_size)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    memory = dict.fromkeys(ways, 0)
    took = 0.0
    for number in range(most or settings.rounds):
        if number and not clock.allows(took):
            break
        round_began = time.perf_counter()
        for name, steps in ways.items():
            forget_peak(device)
            synchronise(device)
            began = time.perf_counter()
            steps(count)
            synchronise(device)
            rates[name].append(count * batch_size / (time.perf_counter() - began))
            memory[name] = peak_memory_mib(device)
        took = time.perf_counter() - round_began
    return {
        name: Measured(statistics.median(found), memory[name], len(found)) for name, found in rates.items() if found
    }


def largest_batch(settings: Settings, student: str) -> tuple[int, int, bool]:
    """The largest batch of which ours and timm's step fit, not compiled; MiB; and whether the next one does not.

    UserError where not even the first one fits.
    """
    size, last = settings.batches
    fits = None
    while size <= last:
        free_memory()
        found = _memory_of(settings, student, size)
        if found is None:
            if fits is None:
                raise UserError(f"not even a batch of {size} fits into the memory")
            return *fits, True
        fits, size = (size, found), 2 * size
    assert fits
    return *fits, False


def _memory_of(settings: Settings, student: str, size: int) -> int | None:
    """MiB that two steps take at most, the second with the optimiser's state; None where they do not fit."""
    device = default_device()
    forget_peak(device)
    try:
        batch = resident_batch(settings, size)
        # Both at once, as they will be compared.
        ways = Ours(settings, student, batch), Timms(settings, student, batch)
        for steps in ways:
            steps(2)
        synchronise(device)
    except (UserError, torch.OutOfMemoryError) as fault:
        # The engine says it in a line of its own.
        if isinstance(fault, UserError) and not isinstance(fault.__context__, torch.OutOfMemoryError):
            raise
        return None
    return peak_memory_mib(device)


def forget_peak(device: torch.device) -> None:
    """Count the most memory from now on; on a CPU it is that of the process so far."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def free_memory() -> None:
    """Give back what nothing refers to."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def network_of(settings: Settings, student: str) -> torch.nn.Module:
    """The student, to count what it computes."""
    return create_student(settings.recipe(student, 2).student, CLASSES, seed=0)
