"""`tinyvit bench train`: images a second of training, beside a bare loop over timm's loader, in one run.

Compared are plain supervised training of the student by timm's loader and the shortest loop, and our engine on labels,
on stored logits, and with the live teacher; on a GPU also on stored logits with the network compiled. Each round of
each is a process of its own, so that its memory is its own; rounds take turns, so that a noisy machine troubles
all alike; the median round counts. Time runs from the end of the first epoch to the end of the last and leaves
nothing out, saving and logging included.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from benchmarks.gpu.peak import product_rate, synchronise, training_flops
from benchmarks.tables import file_table, terminal
from benchmarks.timm_way import describe_for_timm, link_shards, timm_loader
from logitstore import LogitStore
from tinyvit.config import ClassStage, LabelStage, Recipe, TeacherStage
from tinyvit.data.index import index_shards
from tinyvit.data.loader import default_workers
from tinyvit.data.location import resolve_data
from tinyvit.labelling.label import label_store
from tinyvit.models import create_student, input_size
from tinyvit.models.teachers import load_teacher
from tinyvit.runtime.distributed import default_device
from tinyvit.runtime.progress import Bar, LogProgress, Progress
from tinyvit.tasks.run import open_run
from tinyvit.tasks.signals import LiveSignals, StoredSignals
from tinyvit.training.step_meter import peak_memory_mib
from tinyvit.training.train import train_stage

ROUNDS = 5
EPOCHS = 4
COLUMNS = ("training", "images/s", "of bare", "peak memory, MiB")
WORDS = {
    "bare": "timm's loader and a bare loop, on labels",
    "supervised": "ours on labels",
    "stored": "ours on stored logits",
    "online": "ours with the live teacher",
    "compiled": "ours on stored logits, compiled",
}


def measure(recipe: Recipe, folder: Path, progress: Progress) -> dict[str, Any]:
    """Images a second and peak memory of every way; the recipe's first stage on a teacher says how it learns."""
    teacher = load_teacher(recipe.label.teacher, default_device(), recipe.label.classes)
    recipe = resolve_data(recipe, _with_as_many_classes(recipe.data.train, teacher.num_classes, folder / "data"))
    label_store(recipe, folder / "store", teacher, default_workers(), progress)
    ways = [way for way in WORDS if way != "compiled" or torch.cuda.is_available()]
    rounds: dict[str, list[tuple[float, int]]] = {way: [] for way in ways}
    with progress.task("train", ROUNDS * len(ways), "rounds") as bar:
        for _ in range(ROUNDS):
            for way in ways:
                rounds[way].append(_in_a_process(_Round(way, recipe, str(folder / "store"))))
                bar.advance(1)
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "student": recipe.student.name,
        "batch_size": _stage(recipe).batch_size,
        "workers": default_workers(),
    }
    for way in ways:
        found[f"{way}_images_per_s"] = statistics.median(rate for rate, _ in rounds[way])
        found[f"{way}_peak_memory_mib"] = statistics.median(memory for _, memory in rounds[way])
    if "compiled" in ways:
        found |= _share_of_peak(recipe, found["compiled_images_per_s"])
    return found


def _with_as_many_classes(data: str, count: int, folder: Path) -> Path:
    """The same shards with names for so many classes: every way trains the same network, whatever it learns from."""
    folder.mkdir()
    index = index_shards(data, LogProgress())
    link_shards(index, folder)
    names = index.class_names or []
    (folder / "classes.txt").write_text("\n".join([*names, *(f"none {n}" for n in range(count - len(names)))]))
    return folder


def _stage(recipe: Recipe) -> TeacherStage:
    return next(stage for stage in recipe.stages.values() if isinstance(stage, TeacherStage))


def _in_a_process(work: Callable[[], tuple[float, int]]) -> tuple[float, int]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work).result()


@dataclass(frozen=True)
class _Round:
    """One way, timed once."""

    way: str
    recipe: Recipe
    store: str

    def __call__(self) -> tuple[float, int]:
        """Images a second after the first epoch, and the most memory."""
        with tempfile.TemporaryDirectory() as folder:
            rate = self._bare(Path(folder)) if self.way == "bare" else self._ours(Path(folder))
        return rate, peak_memory_mib(default_device())

    def _bare(self, folder: Path) -> float:
        recipe, stage, device = self.recipe, _stage(self.recipe), default_device()
        index = index_shards(recipe.data.train, LogProgress())
        classes = len(index.class_names or ())
        model = create_student(recipe.student, classes, stage.seed)
        size = input_size(model)
        model = model.to(device).to(memory_format=torch.channels_last)
        optimiser = torch.optim.AdamW(model.parameters(), lr=stage.lr, weight_decay=stage.weight_decay)
        criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
        describe_for_timm(index, folder)
        loader = timm_loader(
            folder, recipe.augment_of(stage), size, stage.batch_size, default_workers(), stage.seed,
            prefetcher=device.type == "cuda",
        )  # fmt: skip
        steps = sum(index.counts) // stage.batch_size
        model.train()
        began, images = 0.0, 0
        for epoch in range(EPOCHS):
            for step, (pixels, labels) in enumerate(loader):
                if step == steps:
                    break
                pixels = pixels.to(device, memory_format=torch.channels_last)
                with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                    loss = criterion(model(pixels), labels.to(device))
                optimiser.zero_grad()
                loss.backward()
                if stage.clip_grad:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), stage.clip_grad)
                optimiser.step()
                images += len(labels) * (epoch > 0)
            synchronise(device)
            began = began or time.perf_counter()
        return images / (time.perf_counter() - began)

    def _ours(self, folder: Path) -> float:
        learned = _stage(self.recipe).model_copy(update={"epochs": EPOCHS, "warmup_epochs": 0.0})
        stage: TeacherStage | LabelStage = learned
        if self.way == "supervised":
            shared = {name: getattr(learned, name) for name in ClassStage.model_fields if name != "target"}
            augment = self.recipe.label.augment
            stage = LabelStage(target="labels", label_smoothing=0.1, augment=augment, **shared)
        engine = self.recipe.engine.model_copy(update={"compile": self.way == "compiled"})
        # Nothing is evaluated: that is no training.
        data = self.recipe.data.model_copy(update={"val": None})
        recipe = self.recipe.model_copy(update={"stages": {"timed": stage}, "engine": engine, "data": data})
        times = Times()
        run = open_run(recipe, folder, ["timed"], default_workers(), times)
        if self.way == "online":
            teacher = load_teacher(recipe.label.teacher, default_device(), recipe.label.classes)
            run = replace(run, signals=LiveSignals(teacher, recipe.label))
        elif self.way != "supervised":
            run = replace(run, signals=StoredSignals(LogitStore.open(self.store)))
        train_stage(run, "timed", None)
        steps: int = sum(run.data.counts) // stage.batch_size
        rate: float = stage.batch_size * steps * (EPOCHS - 1) / (times.ends - times.marks[steps - 1])
        return rate


class Times:
    """A progress that notes when each step was done, and how much it was, and when all was."""

    def __init__(self) -> None:
        self.marks: list[float] = []
        self.amounts: list[float] = []
        self.ends = 0.0

    @contextmanager
    def task(self, name: str, total: float, unit: str) -> Iterator[Bar]:
        yield self
        self.ends = time.perf_counter()

    def advance(self, amount: float, note: str = "") -> None:
        self.marks.append(time.perf_counter())
        self.amounts.append(amount)

    @property
    def rate(self) -> float:
        """How much was done a second, from the end of the first step to the end of the last."""
        return sum(self.amounts[1:]) / (self.marks[-1] - self.marks[0])


def _share_of_peak(recipe: Recipe, rate: float) -> dict[str, float]:
    """What the compiled way computes, as a share of what a large bfloat16 matrix product reaches on this device."""
    model = create_student(recipe.student, 1000, 0)
    used = training_flops(model, input_size(model)) * rate
    peak = product_rate(default_device())
    return {"compiled_flops_per_s": used, "matrix_product_flops_per_s": peak, "share_of_peak": used / peak}


def _ways(found: dict[str, Any]) -> list[str]:
    return [way for way in WORDS if f"{way}_images_per_s" in found]


def table(found: dict[str, Any]) -> Table:
    """What was measured, for a terminal."""
    caption = f"{found['student']}, {found['batch_size']} images a step, on {found['device']}"
    return terminal(COLUMNS, _rows(found), caption)


def markdown(found: dict[str, Any]) -> str:
    """What was measured, as a table of a results file."""
    return file_table(COLUMNS, _rows(found))


def _rows(found: dict[str, Any]) -> list[list[str]]:
    rows = []
    for way in _ways(found):
        rate, memory = found[f"{way}_images_per_s"], found[f"{way}_peak_memory_mib"]
        rows.append([WORDS[way], f"{rate:,.0f}", f"{rate / found['bare_images_per_s']:.2f}", f"{memory:,.0f}"])
    rows.append(
        ["stored / supervised", f"{found['stored_images_per_s'] / found['supervised_images_per_s']:.3f}", "", ""]
    )
    if "share_of_peak" in found:
        rows.append(["compiled: share of a large matrix product's speed", f"{found['share_of_peak']:.2f}", "", ""])
    return rows
