"""Pictures of training: what the metrics of finished or running stages look like over their epochs."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tinyvit.training.folder import read_epochs


def curves_png(stages: Sequence[Path]) -> bytes:
    """Loss of each stage and, where measured, accuracy on the validation images, as a PNG."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    named = {stage.name: read_epochs(stage) for stage in stages}
    draw(left, named, "loss", "loss [nat]")
    draw_accuracy(right, named)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def draw(axes: Axes, runs: Mapping[str, list[dict[str, Any]]], field: str, label: str) -> None:
    """One line a run of a field of its metrics over epochs."""
    for name, metrics in runs.items():
        axes.plot([m["epoch"] for m in metrics], [m[field] for m in metrics], marker=".", label=name)
    axes.set(xlabel="epoch", ylabel=label)
    axes.grid(alpha=0.3)
    axes.legend()


def draw_accuracy(axes: Axes, runs: Mapping[str, list[dict[str, Any]]]) -> None:
    """One line a run of its validation accuracy, and its training agreement where there is a teacher."""
    for name, metrics in runs.items():
        points = [(m["epoch"], m["val"]["top1"]) for m in metrics if m.get("val")]
        if points:
            axes.plot(*zip(*points, strict=True), marker=".", label=f"{name}, validation top-1")
        agreed = [(m["epoch"], m["agreement"]) for m in metrics if "agreement" in m]
        if agreed:
            axes.plot(*zip(*agreed, strict=True), marker=".", label=f"{name}, agreement with the teacher")
    axes.set(xlabel="epoch", ylabel="%")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
