"""Training as it is run: from shards of photographs, joined with a store, with the machine's data processes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.jobs import Clock, Figures, faulty
from benchmarks.gpu.report import Note, Row
from benchmarks.gpu.settings import STAGE, TARGETS, Settings
from benchmarks.gpu.steps import free_memory
from logitstore import LogitStore
from tinyvit.data.loader import run_streams
from tinyvit.runtime.progress import SilentProgress
from tinyvit.tasks.distillation import DistillationTask
from tinyvit.tasks.run import open_run
from tinyvit.tasks.signals import StoredSignals
from tinyvit.training.folder import read_epochs
from tinyvit.training.run import Run
from tinyvit.training.train import train_stage

COLUMNS = (
    "student", "data processes", "batch", "loader alone, views/s", "training, images/s", "waiting for data, %",
    "of the batches on the GPU", "target",
)  # fmt: skip
# What a row takes, or compiling where it is done already.
LEAST_SECONDS = 15.0
# Views of a batch of the loader alone: batches of many come in long waves.
ALONE = 256


def measure(settings: Settings, figures: Figures, clock: Clock) -> Iterator[Row | Note]:
    """The loader alone and the engine with it; the fastest student first, which is the hardest to feed."""
    alone: dict[int, float] = {}
    for student in settings.students[:2]:
        try:
            # Else data processes would fill up batches ahead while the first one waits for what is compiled.
            _train(settings, figures, student, settings.beside, epochs=1, name="compiled")
        except Exception as fault:  # the next one may do
            yield faulty("loader", student, fault)
            continue
        for workers in settings.workers:
            what = f"{student}, {workers} data processes"
            if not clock.allows(LEAST_SECONDS):
                yield Note("loader", f"{what}: left out for time")
                continue
            try:
                if workers not in alone:
                    alone[workers] = _loader_alone(settings, student, workers)
                yield _row(settings, figures, student, workers, alone[workers])
            except Exception as fault:  # the next one may do
                yield faulty("loader", what, fault)
            free_memory()
        # Networks of one kind are compiled anew only so often.
        torch.compiler.reset()


def _row(settings: Settings, figures: Figures, student: str, workers: int, alone: float) -> Row:
    """Train; of all epochs but the first, in which the loader begins."""
    batch, resident = _known(settings, figures, student)
    per_epoch = settings.photographs * settings.copies // batch
    epochs = 1 + -(-settings.waves * max(workers, 1) // per_epoch)
    done = _train(settings, figures, student, workers, epochs, f"{workers}")[1:]
    seconds = [epoch["images"] / epoch["images_per_s"] for epoch in done]
    rate = sum(epoch["images"] for epoch in done) / sum(seconds)
    waited = sum(epoch["waiting_for_data"] * took for epoch, took in zip(done, seconds, strict=True))
    waiting = waited / sum(seconds)
    target = TARGETS[student].images_per_s
    share = f"{rate / resident:.3f}" if resident else ""
    return Row(
        "loader",
        (student, f"{workers}", f"{batch:,}", f"{alone:,.0f}", f"{rate:,.0f}", f"{100 * waiting:.0f}", share,
         f"{target:,.0f}"),
        {
            "student": student,
            "workers": workers,
            "batch": batch,
            "loader_views_per_s": alone,
            "images_per_s": rate,
            "waiting": waiting,
            "resident_images_per_s": resident,
            "target_images_per_s": target,
        },
    )  # fmt: skip


def _known(settings: Settings, figures: Figures, student: str) -> tuple[int, float | None]:
    """The batch that was found to fit, which is compiled already, and the rate of our last way on it."""
    ours = [row for row in figures["training"] if row["student"] == student and row["step"].startswith("ours")]
    return (ours[-1]["batch"], ours[-1]["images_per_s"]) if ours else (settings.batches[0], None)


def _train(
    settings: Settings, figures: Figures, student: str, workers: int, epochs: int, name: str
) -> list[dict[str, Any]]:
    """Train from the store; the metrics of each epoch."""
    batch, _ = _known(settings, figures, student)
    changes = (f"engine.compile={settings.engine_compile}", f"stages.{STAGE}.epochs={epochs}")
    folder = settings.folder / "runs" / f"{student}-{name}"
    train_stage(_open(settings, student, batch, workers, folder, *changes), STAGE, None)
    return read_epochs(folder / STAGE)


def _open(settings: Settings, student: str, batch: int, workers: int, folder: Path, *changes: str) -> Run[Any]:
    run = open_run(settings.recipe(student, batch, *changes), folder, [STAGE], workers, SilentProgress())
    return replace(run, signals=StoredSignals(LogitStore.open(str(settings.store))))


def _loader_alone(settings: Settings, student: str, workers: int) -> float:
    """Views a second, as the engine is given them: joined, and in page-locked memory.

    Data processes take as long for their first batches as for all others, and end them together: time runs from when
    each has given one.
    """
    images = settings.photographs * settings.copies
    batch = min(ALONE, images // 4)
    run = _open(settings, student, batch, workers, settings.folder / "runs" / "alone")
    task, first = DistillationTask(run, STAGE, None), max(workers, 1)
    epochs = range(1 + settings.waves * first * batch // images)
    began, views, number = 0.0, 0, 0
    for batches in run_streams([task.views(n) for n in epochs], workers, run.world.device.type == "cuda"):
        for one in batches:
            number += 1
            views += len(one) if number > first else 0
            began = time.perf_counter() if number == first else began
    return views / (time.perf_counter() - began)
