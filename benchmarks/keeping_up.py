"""Does labelling keep up with its teacher? Views a second beside the bare forward pass, on the same views.

Compared are the teacher alone on views that lie in memory, labelling into a store by one process with its data
processes, and by two processes that share the store. The rounds of all take turns; the median round counts. Processes
begin to count when all have their teacher, have asked it once, and have the server that data processes come from.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from itertools import chain
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import timm
import torch

from storage import Claims, LogitStore
from tinyvit.config import Recipe
from tinyvit.data.index import index_shards
from tinyvit.data.loader import default_workers, run_jobs
from tinyvit.data.unit_views import UnitViews
from tinyvit.label import Labeller, open_for_labelling
from tinyvit.lease import own_device
from tinyvit.progress import Progress, SilentProgress
from tinyvit.teachers import Teacher, load_teacher

ROUNDS = 3
PROCESSES = (1, 2)
# As large as teachers are, beside the CPU's small example; only its speed counts.
TEACHER = "python:benchmarks.keeping_up:stand_in"


def stand_in() -> torch.nn.Module:
    """ViT-S/16 with random weights: 4.6 GFLOPs a view."""
    torch.manual_seed(0)
    return timm.create_model("vit_small_patch16_224", num_classes=1000)


def measure(recipe: Recipe, folder: Path, progress: Progress) -> dict[str, Any]:
    """Views a second of the bare teacher and of labelling with one and two processes, and the ratios to the former."""
    rates: dict[str, list[float]] = {}
    open_for_labelling(recipe, folder / "index", _teacher(recipe, 1), progress)
    views = sum(index_shards(recipe.data.train, progress).counts) * recipe.label.epochs
    with progress.task("scale", ROUNDS * (1 + len(PROCESSES)), "passes") as bar:
        for number in range(ROUNDS):
            rates.setdefault("bare", []).append(views / _together(_ask, 1, recipe, folder))
            bar.advance(1)
            for count in PROCESSES:
                store = folder / f"{number}-{count}"
                open_for_labelling(recipe, store, _teacher(recipe, 1), SilentProgress())
                rates.setdefault(f"{count}", []).append(views / _together(_label, count, recipe, store))
                assert not LogitStore.open(store).missing()
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
    ready = context.Barrier(count + 1)
    processes = [context.Process(target=work, args=(recipe, place, count, ready)) for _ in range(count)]
    for process in processes:
        process.start()
    ready.wait(300)
    began = time.perf_counter()
    for process in processes:
        process.join()
        if process.exitcode:
            raise RuntimeError(f"a process of the benchmark ended with exit code {process.exitcode}")
    return time.perf_counter() - began


def _teacher(recipe: Recipe, count: int) -> Teacher:
    """In one of `count` processes, which share the cores."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
    return load_teacher(recipe.label.teacher, own_device(), recipe.label.classes)


def _ask(recipe: Recipe, place: Path, count: int, ready: Barrier) -> None:
    """The forward pass alone, on the views that labelling asks about, in the same batches."""
    teacher, label = _teacher(recipe, count), recipe.label
    index = index_shards(recipe.data.train, SilentProgress())
    stream = UnitViews(
        index, label.augment, recipe.data.decode, label.input_size or 0, label.seed, label.batch_size, 4, True
    )
    store = LogitStore.open(place / "index")
    jobs = (part for unit in store.units() for part in stream.parts(unit, store.spec.epochs_of(unit)))
    chunks = chain.from_iterable(run_jobs(stream.chunks, jobs, default_workers()))
    views = [chunk.views.flatten(0, 1) for chunk in chunks]
    teacher.answer(views[0])
    ready.wait()
    for batch in views:
        teacher.answer(batch).cpu()


def _label(recipe: Recipe, place: Path, count: int, ready: Barrier) -> None:
    teacher, store = _teacher(recipe, count), LogitStore.open(place)
    size = recipe.label.input_size or teacher.input_size
    teacher.answer(torch.zeros(recipe.label.batch_size, size, size, 3, dtype=torch.uint8))
    list(run_jobs(abs, [1], 1))
    ready.wait()
    with Claims(store) as claims:
        labeller = Labeller(store, recipe, teacher, default_workers(count), SilentProgress(), claims)
        for _ in labeller.label_missing(store.units()):
            pass
