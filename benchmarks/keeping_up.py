"""Does labelling keep up with its teacher? Views a second beside the bare forward pass, on the same views.

Compared are the teacher alone on views that lie in memory, labelling into a store by one process with its data
processes, and by two processes that share the store. The rounds of all take turns; the median round counts. Processes
count from when all have their teacher, have asked it once, and have the server that data processes come from, until
all have done their work; that they end takes as long as a second of it where they have used a GPU.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from benchmarks.confirm import confirm
from benchmarks.gpu.peak import synchronise
from logitstore import Claims, LogitStore
from tinyvit.config import Recipe
from tinyvit.data.index import index_shards
from tinyvit.data.loader import default_workers, run_jobs
from tinyvit.labelling.label import Labeller, asked_views, open_for_labelling
from tinyvit.models.teachers import Teacher, load_teacher
from tinyvit.runtime.gpu_lock import reserve_gpu
from tinyvit.runtime.progress import Progress, SilentProgress

ROUNDS = 3
PROCESSES = (1, 2)
# As large as teachers are, beside the CPU's small example; only its speed counts.
TEACHER = "python:benchmarks.keeping_up:stand_in"


def stand_in() -> torch.nn.Module:
    """With random weights, ViT-S/16 (4.6 GFLOPs a view), on a GPU ViT-L/16."""
    torch.manual_seed(0)
    size = "large" if torch.cuda.is_available() else "small"
    return timm.create_model(f"vit_{size}_patch16_224", num_classes=1000)


def measure(recipe: Recipe, folder: Path, progress: Progress) -> dict[str, Any]:
    """Views a second of the bare teacher and of labelling with one and two processes, and the ratios to the former."""
    rates: dict[str, list[float]] = {}
    index = index_shards(recipe.data.train, progress)
    open_for_labelling(recipe, folder / "index", _teacher(recipe, 1), index)
    views = sum(index.counts) * recipe.label.epochs
    with progress.task("scale", ROUNDS * (1 + len(PROCESSES)), "passes") as bar:
        for number in range(ROUNDS):
            rates.setdefault("bare", []).append(views / _together(_ask, 1, recipe, folder))
            bar.advance(1)
            for count in PROCESSES:
                store = folder / f"{number}-{count}"
                open_for_labelling(recipe, store, _teacher(recipe, 1), index)
                rates.setdefault(f"{count}", []).append(views / _together(_label, count, recipe, store))
                confirm(not LogitStore.open(store).missing(), "units are missing")
                bar.advance(1)
    middle = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "teacher": recipe.label.teacher,
        "views": views,
        "input_size": recipe.label.input_size,
        "bare_views_per_s": middle["bare"],
        "label_views_per_s": {count: middle[str(count)] for count in PROCESSES},
        "ratio_to_bare": {count: middle[str(count)] / middle["bare"] for count in PROCESSES},
    }


def _together(work: Any, count: int, recipe: Recipe, place: Path) -> float:
    """Seconds that so many processes take from when all are ready until all have done their work."""
    context = multiprocessing.get_context("spawn")
    ready, done = context.Barrier(count + 1), context.Value("d", 0.0)
    processes = [context.Process(target=_timed, args=(work, recipe, place, count, ready, done)) for _ in range(count)]
    for process in processes:
        process.start()
    ready.wait(300)
    began = time.monotonic()
    for process in processes:
        process.join()
        if process.exitcode:
            raise RuntimeError(f"a process of the benchmark ended with exit code {process.exitcode}")
    return float(done.value) - began


def _timed(work: Any, recipe: Recipe, place: Path, count: int, ready: Barrier, done: Any) -> None:
    """One of `count` processes; `done` is when the last of them has done its work, by the machine's clock."""
    begin = work(recipe, place, count)
    ready.wait()
    begin()
    with done.get_lock():
        done.value = max(done.value, time.monotonic())


def _teacher(recipe: Recipe, count: int) -> Teacher:
    """In one of `count` processes, which share the cores."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
    return load_teacher(recipe.label.teacher, reserve_gpu(), recipe.label.classes)


def _ask(recipe: Recipe, place: Path, count: int) -> Callable[[], None]:
    """Ready for the forward pass alone, on the views that labelling asks about, in the same batches."""
    teacher = _teacher(recipe, count)
    views = views_of(recipe, LogitStore.open(place / "index"), teacher, default_workers())
    ask(teacher, views[:1])
    return partial(ask, teacher, views)


def _label(recipe: Recipe, place: Path, count: int) -> Callable[[], None]:
    """Ready for labelling, as one of `count` processes that share a store."""
    teacher, store = _teacher(recipe, count), LogitStore.open(place)
    size = recipe.label.input_size or teacher.input_size
    teacher.logits(torch.zeros(recipe.label.batch_size, size, size, 3, dtype=torch.uint8))
    list(run_jobs(abs, [1], 1))
    return partial(label_all, recipe, store, teacher, default_workers(count), SilentProgress())


def views_of(recipe: Recipe, store: LogitStore, teacher: Teacher, workers: int) -> list[Tensor]:
    """Every view that labelling this store asks about, in its batches, on the teacher's device."""
    stream = asked_views(recipe, store, teacher, index_shards(recipe.data.train, SilentProgress()))
    jobs = (part for unit in store.units() for part in stream.parts(unit, store.spec.epochs_of(unit)))
    chunks = chain.from_iterable(run_jobs(stream.chunks, jobs, workers))
    return [chunk.views.flatten(0, 1).to(teacher.device) for chunk in chunks]


def ask(teacher: Teacher, views: Sequence[Tensor]) -> None:
    """The forward pass of all these batches, to its end."""
    for batch in views:
        teacher.logits(batch)
    synchronise(teacher.device)


def label_all(recipe: Recipe, store: LogitStore, teacher: Teacher, workers: int, progress: Progress) -> None:
    """Label what is missing of a store and no other process has."""
    index = index_shards(recipe.data.train, SilentProgress())
    with Claims(store) as claims:
        for _ in Labeller(store, recipe, teacher, index, workers, progress, claims).label_missing(store.units()):
            pass
