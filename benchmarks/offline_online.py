"""`tinyvit bench online`: training on stored logits is training with the live teacher, step by step.

The same student learns the same views in the same order from the same initial weights: once from a store of each
encoding, once with the teacher in the loop. Everything that differs is what the store rounds.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from benchmarks.tables import file_table, terminal
from tinyvit.classes import shared_classes
from tinyvit.config import load_recipe
from tinyvit.data.loader import default_workers
from tinyvit.data.location import resolve_data
from tinyvit.errors import UserError
from tinyvit.labelling.label import label_store
from tinyvit.models.teachers import load_teacher
from tinyvit.runtime.distributed import default_device
from tinyvit.runtime.progress import Progress
from tinyvit.tasks.run import open_run
from tinyvit.tasks.signals import LiveSignals, StoredSignals
from tinyvit.training.metric_logger import METRICS, read_lines
from tinyvit.training.train import train_stage

COLUMNS = ("learned from", "last loss", "largest difference", "top-1 %")
ENCODINGS = ("compact", "exact")
# Of fashion-distill: 13 shards of 2,000 make 203 steps of one epoch; fewer classes than there are, so that there is a
# residual.
SHARDS = "{000000..000012}"
OVERRIDES = (
    "label.epochs=1",
    "label.epochs_per_unit=1",
    "label.top_k=5",
    "stages.distill.epochs=1",
    "engine.log_steps=1",
    "engine.deterministic=true",
)


def compare(folder: Path, data: Path, teacher: str, progress: Progress) -> dict[str, Any]:
    """Losses of each step and final accuracies, with stores of each encoding and with the live teacher.

    UserError for a teacher that does not tell the data's classes apart: there would be no accuracy to compare.
    """
    live = load_teacher(teacher, default_device(), None)
    shutil.rmtree(folder, ignore_errors=True)
    found: dict[str, Any] = {"teacher": teacher, "losses": {}, "top1": {}}
    for way in (*ENCODINGS, "online"):
        changes = [f"label.encoding={way}"] if way in ENCODINGS else []
        recipe = resolve_data(load_recipe("fashion-distill", [f"label.teacher={teacher}", *OVERRIDES, *changes]), data)
        train = f"{recipe.data.train}/train-{SHARDS}.tar"
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"train": train})})
        run = open_run(recipe, folder / way, ["distill"], default_workers(), progress)
        if not shared_classes(live.classes, run.data.class_names):
            raise UserError(f"the teacher {teacher} does not know the classes of {data}; give one that was fine-tuned")
        if way == "online":
            run = replace(run, signals=LiveSignals(live, recipe.label))
        else:
            store, _ = label_store(recipe, folder / f"store-{way}", live, default_workers(), progress)
            run = replace(run, signals=StoredSignals(store))
        result = train_stage(run, "distill", None)
        found["losses"][way] = [line["loss"] for line in read_lines(folder / way / "distill" / METRICS)]
        found["top1"][way] = result["val"]["top1"]
    online = np.array(found["losses"]["online"])
    found["largest_difference"] = {
        way: float(np.abs(np.array(found["losses"][way]) - online).max()) for way in ENCODINGS
    }
    (folder / "comparison.json").write_text(json.dumps(found, indent=2) + "\n")
    return found


def draw(found: dict[str, Any], file: Path) -> None:
    """The losses of all ways in one plot, and what differs below it."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    online = np.array(found["losses"]["online"])
    above.plot(online, color="black", linewidth=3, alpha=0.3, label="live teacher")
    for way in ENCODINGS:
        losses = np.array(found["losses"][way])
        above.plot(losses, linewidth=1, label=f"stored, {way}")
        below.semilogy(np.maximum(np.abs(losses - online), 1e-9), linewidth=1, label=f"stored, {way}")
    above.set(ylabel="loss [nat]")
    below.set(xlabel="step", ylabel="difference from the live teacher [nat]")
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(file, dpi=120)


def table(found: dict[str, Any]) -> Table:
    """What was measured, for a terminal."""
    return terminal(COLUMNS, _rows(found), f"{len(found['losses']['online'])} steps, the same views, weights and order")


def markdown(found: dict[str, Any]) -> str:
    """What was measured, as a table of a results file."""
    return file_table(COLUMNS, _rows(found))


def _rows(found: dict[str, Any]) -> list[list[str]]:
    rows = []
    for way in (*ENCODINGS, "online"):
        difference = f"{found['largest_difference'][way]:.2g}" if way in ENCODINGS else ""
        name = f"store, {way}" if way in ENCODINGS else "live teacher"
        rows.append([name, f"{found['losses'][way][-1]:.4f}", difference, f"{found['top1'][way]:.2f}"])
    return rows
