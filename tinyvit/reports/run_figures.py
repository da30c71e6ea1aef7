"""The plots of training: one line a stage, over the images that it has seen."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from tinyvit.reports.plot import COLOURS, Plot, literal, plot
from tinyvit.reports.stages import StageRun

# Of the metrics: field, title, label of the axis, factor.
METRICS = (
    ("loss", "Training loss", "loss [nat]", 1.0),
    ("agreement", "Agreement with the teacher", "best class is the teacher's [%]", 1.0),
    ("train_top1", "Accuracy on training views", "best class is the label [%]", 1.0),
    ("lr", "Learning rate", "learning rate", 1.0),
    ("images_per_s", "Throughput", "images/s", 1.0),
    ("waiting_for_data", "Waiting for data", "share of the time [%]", 100.0),
    ("grad_norm", "Norm of the gradient", "norm", 1.0),
)
VALIDATED = (
    ("top1", "Validation accuracy", "top-1 [%]"),
    ("loss", "Validation loss", "loss [nat]"),
    ("ap", "Average precision", "AP [%]"),
    ("ap50", "Average precision at half overlap", "AP50 [%]"),
)

Points = tuple[list[float], list[float]]


def run_plots(stages: Sequence[StageRun]) -> list[Plot]:
    """Those for which there are figures."""
    found = [
        (title, label, {stage.name: stage.validated(field) for stage in stages}) for field, title, label in VALIDATED
    ]
    for field, title, label, factor in METRICS:
        lines = {stage.name: stage.over(field) for stage in stages}
        found.append((title, label, {n: (x, [factor * value for value in y]) for n, (x, y) in lines.items()}))
    return [_lines(*entry) for entry in found if any(x for x, _ in entry[2].values())]


def curves_png(stages: Sequence[StageRun]) -> bytes:
    """Loss and, where measured, validation accuracy, as a PNG."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw(left, {stage.name: stage.over("loss") for stage in stages}, "loss [nat]")
    draw(right, {stage.name: stage.validated("top1") for stage in stages}, "validation top-1 [%]")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def draw(axes: Axes, lines: dict[str, Points], label: str) -> None:
    """One line a stage of those that have points; a stage has the same colour in every plot."""
    shown = [(number, name, *points) for number, (name, points) in enumerate(lines.items()) if points[0]]
    for number, name, seen, values in shown:
        style = ("-", "--", ":", "-.")[number // len(COLOURS) % 4]
        marker = "." if len(seen) < 40 else ""
        axes.plot(seen, values, style, color=COLOURS[number % len(COLOURS)], marker=marker, label=literal(name))
    axes.set(xlabel="images seen", ylabel=label)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.25)
    if len(shown) > 1:
        axes.legend(frameon=False, fontsize="small")


def confusion(teacher: NDArray[np.intp], student: NDArray[np.intp], names: Sequence[str], name: str) -> Plot:
    """Where a student's best class [N] goes for each of the teacher's [N], numbered by `names`, the last of which
    stands for all others.
    """
    counts = np.zeros((len(names), len(names)))
    np.add.at(counts, (teacher, student), 1)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    def paint(axes: Axes) -> None:
        drawn = axes.imshow(shares, cmap="cividis", vmin=0, vmax=100, aspect="auto", interpolation="nearest")
        shown = [literal(name) for name in names]
        axes.set_xticks(range(len(names)), shown, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), shown, fontsize=7)
        axes.set(xlabel="the student says", ylabel="the teacher says")
        assert axes.figure is not None
        axes.figure.colorbar(drawn, ax=axes, label="share of the row [%]")

    diagonal = np.trace(counts) / counts.sum()
    text = f"of the {len(names) - 1} classes that the teacher names most; {diagonal:.1%} lie on the diagonal"
    return plot(f"Student against teacher: {name}", text, paint, height=4.2)


def _lines(title: str, label: str, lines: dict[str, Points]) -> Plot:
    ends = [f"{name} {values[-1]:.4g}" for name, (seen, values) in lines.items() if seen]
    return plot(title, f"at last {', '.join(ends)}", lambda axes: draw(axes, lines, label))
