"""`tinyvit bench distillation`: what a student gains by its teacher's stored answers, against labels alone.

A teacher is fine-tuned on the labels of Fashion-MNIST's 60,000 training pictures and asked about every view. Then
the same student learns, for the same number of steps and from the same initial weights, once the stored answers and
once the labels, for each of some seeds. Reported are all accuracies on the 10,000 test pictures, whichever wins.
Everything is kept in a folder: what was stopped goes on there.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.table import Table

from benchmarks.tables import file_table, mean_and_spread, terminal
from storage import LogitStore
from tinyvit.config import Recipe, load_recipe
from tinyvit.data.fetch import fetch_fashion_mnist
from tinyvit.data.loader import default_workers
from tinyvit.label import label_store
from tinyvit.pixels import default_device
from tinyvit.progress import Progress
from tinyvit.teachers import load_teacher
from tinyvit.training.folder import read_epochs
from tinyvit.training.journal import METRICS, read_lines
from tinyvit.training.run import open_run
from tinyvit.training.train import train_stage

COLUMNS = ("learned from", "steps", "top-1 %", "each seed", "loss", "calibration error %")
WAYS = {"distill": "the teacher's stored answers", "scratch": "labels alone"}


def compare(folder: Path, seeds: int, overrides: list[str], progress: Progress) -> dict[str, Any]:
    """Accuracies of the teacher and of every student; `overrides` are of fashion-distill."""
    data = folder / "data"
    if not (data / "val").is_dir():
        fetch_fashion_mnist(data, progress)
    teaching = load_recipe("fashion-teacher").with_data(data)
    taught = _train(teaching, folder / "teacher", "finetune", None, progress)
    teacher = f"label.teacher=timm:local-dir:{taught['checkpoint']}"
    recipe = load_recipe("fashion-distill", [teacher, *overrides]).with_data(data)
    asked = load_teacher(recipe.label.teacher, default_device(), recipe.label.classes)
    store, _ = label_store(recipe, folder / "store", asked, default_workers(), progress)
    found: dict[str, Any] = {"teacher_top1": taught["val"]["top1"], "seeds": seeds}
    for seed in range(seeds):
        for way in WAYS:
            changes = [teacher, *overrides, f"stages.{way}.seed={seed}"]
            seeded = load_recipe("fashion-distill", changes).with_data(data)
            run = folder / f"seed-{seed}"
            result = _train(seeded, run, way, store if way == "distill" else None, progress)
            found.setdefault(f"{way}_steps", []).append(read_lines(run / way / METRICS)[-1]["step"])
            found.setdefault(f"{way}_top1", []).append(result["val"]["top1"])
            curve = [epoch["val"]["top1"] for epoch in read_epochs(run / way)]
            found.setdefault(f"{way}_top1_by_epoch", []).append(curve)
            found.setdefault(f"{way}_loss", []).append(result["val"]["loss"])
            found.setdefault(f"{way}_calibration_error", []).append(result["val"]["calibration_error"])
    (folder / "comparison.json").write_text(json.dumps(found, indent=2) + "\n")
    return found


def _train(recipe: Recipe, folder: Path, stage: str, store: LogitStore | None, progress: Progress) -> dict[str, Any]:
    run = open_run(recipe, folder, [stage], default_workers(), progress)
    return train_stage(replace(run, store=store), stage, None)


def draw(found: dict[str, Any], file: Path) -> None:
    """Top-1 on the test pictures after each epoch, of every student and of the teacher."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for way, words in WAYS.items():
        colour = {"distill": "tab:blue", "scratch": "tab:orange"}[way]
        for number, curve in enumerate(found[f"{way}_top1_by_epoch"]):
            epochs = range(1, len(curve) + 1)
            label = words if number == 0 else None
            axes.plot(epochs, curve, color=colour, linewidth=1, marker="o", markersize=3, label=label)
    axes.axhline(found["teacher_top1"], color="black", linestyle="--", linewidth=1, label="the teacher")
    axes.set(xlabel="epoch", ylabel="top-1 on the test pictures [%]")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(title=f"learned from, {found['seeds']} seeds each")
    figure.savefig(file, dpi=120)


def table(found: dict[str, Any]) -> Table:
    """What was measured, for a terminal."""
    return terminal(COLUMNS, _rows(found), f"{found['seeds']} seeds; mean ± standard deviation")


def markdown(found: dict[str, Any]) -> str:
    """What was measured, as a table of a results file."""
    return file_table(COLUMNS, _rows(found))


def _rows(found: dict[str, Any]) -> list[list[str]]:
    return [
        [
            words,
            ", ".join(f"{steps:,}" for steps in sorted(set(found[f"{way}_steps"]))),
            mean_and_spread(found[f"{way}_top1"], 2),
            ", ".join(f"{value:.2f}" for value in found[f"{way}_top1"]),
            f"{statistics.mean(found[f'{way}_loss']):.4f}",
            f"{statistics.mean(found[f'{way}_calibration_error']):.2f}",
        ]
        for way, words in WAYS.items()
    ] + [["(the teacher, fine-tuned on the labels)", "", f"{found['teacher_top1']:.2f}", "", "", ""]]
