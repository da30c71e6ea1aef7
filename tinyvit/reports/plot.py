"""A plot on a page: SVG that takes its colours of text and lines from the page, light or dark."""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Stands for the page's own colour; no colour of a plot.
INK = "#010203"
INKED = ("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "text.color")
# Readable on white and on black (contrast 3 and more): Okabe and Ito's blue and vermilion.
BLUE, RED = "#2a86c8", "#d55e00"
# Of several lines, as far as there are; then they are dashed.
COLOURS = (BLUE, RED, "#009e73", "#b565a7", "#b8860b")


@dataclass(frozen=True)
class Plot:
    """A plot: its title, what it shows in words, and the SVG."""

    title: str
    text: str
    svg: str

    @property
    def image(self) -> str:
        """The drawing by itself, as a data: URI: black on white."""
        alone = self.svg.replace("currentColor", "#000000").replace("<svg", '<svg style="background:#ffffff"', 1)
        return f"data:image/svg+xml;base64,{base64.b64encode(alone.encode()).decode()}"


def literal(name: str) -> str:
    """A foreign name for matplotlib, which takes what stands between dollar signs for a formula."""
    return name.replace("$", r"\$")


def plot(title: str, text: str, paint: Callable[[Axes], None], height: float = 2.8) -> Plot:
    """What `paint` draws."""
    style: Any = dict.fromkeys(INKED, INK)
    with matplotlib.rc_context({**style, "svg.fonttype": "none", "svg.hashsalt": title}):
        figure = Figure(figsize=(4.6, height), layout="constrained")
        axes = figure.subplots()
        paint(axes)
        axes.spines[["top", "right"]].set_visible(False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue().decode()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    # The identifiers of several drawings on one page must differ.
    name = f"{zlib.crc32(title.encode()):08x}"
    for before in ('id="', 'href="#', "url(#"):
        svg = svg.replace(before, f"{before}{name}-")
    return Plot(title, text, svg)
