"""What a detector finds, drawn."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from logitstore import write_whole
from tinyvit.detection.coco import CocoSet, Target
from tinyvit.reports.pages import short_name
from tinyvit.reports.plot import BLUE, RED, literal


def draw_found(
    path: Path,
    coco: CocoSet,
    classes: Sequence[str],
    numbers: Sequence[int],
    detections: Sequence[Target],
    least: float,
) -> None:
    """Write a PNG of images of a set: the truth in blue and dashed, what was found with a score of `least` in red.

    `classes` are those of the detections.
    """
    columns = min(4, len(numbers))
    rows = -(-len(numbers) // columns)
    figure = Figure(figsize=(3.2 * columns, 3.2 * rows), layout="constrained")
    panels = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, number, detection in zip(panels, numbers, detections, strict=False):
        axes.imshow(coco.image(number))
        for box in coco.target(number, masks=False)["boxes"].tolist():
            axes.add_patch(_rectangle(box, BLUE, "--"))
        for box, label, score in zip(
            detection["boxes"].tolist(), detection["labels"].tolist(), detection["scores"].tolist(), strict=True
        ):
            if score < least:
                continue
            axes.add_patch(_rectangle(box, RED, "-"))
            name = literal(short_name(classes[label - 1]))
            axes.text(
                box[0], box[1] - 2, f"{name} {score:.2f}", fontsize=7, color="white",
                bbox={"facecolor": RED, "pad": 1, "lw": 0},
            )  # fmt: skip
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_whole(path, buffer.getvalue())


def _rectangle(box: Sequence[float], colour: str, style: str) -> Rectangle:
    left, top, right, bottom = box
    return Rectangle(
        (left, top), right - left, bottom - top, fill=False, edgecolor=colour, linestyle=style, linewidth=1.5
    )
