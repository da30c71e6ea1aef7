"""The scorecard as a page: one table, a plot for each data set, what could not be measured and why."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from logitstore import write_whole
from tinyvit.reports.pages import render
from tinyvit.reports.plot import COLOURS, Plot, literal, plot
from tinyvit.transfer.scorecard import figure_of, lines, told

# Inches of a plot for each figure, and for what is around them.
LINE, FRAME = 0.42, 1.0


def write_page(path: Path, found: Mapping[str, Any]) -> None:
    """Write the page about a scorecard."""
    named = lines(found)
    rows = [
        {
            "name": row["name"],
            "checkpoints": row["checkpoints"],
            "parameters": f"{row['parameters'] / 1e6:.2f} M",
            "macs": f"{row['macs'] / 1e9:.3f} G",
            "size": row["size"],
        }
        for row in found["rows"]
    ]
    table = [
        {
            "data": data,
            "name": name,
            "figures": [told(figure_of(row, data, name)) for row in found["rows"]],
            "of": next((f["of"] for row in found["rows"] if (f := figure_of(row, data, name)) and "of" in f), ""),
        }
        for data, name in named
    ]
    notes = [
        f"{row['name']}, {data}, {name}: {figure['why']}"
        for row in found["rows"]
        for data, name in named
        if (figure := figure_of(row, data, name)) and "why" in figure
    ]
    page = render(
        "scorecard.html.j2",
        title="Scorecard",
        rows=rows,
        table=[line for line in table if any(text != "-" for text in line["figures"])],
        notes=notes,
        plots=[_plot(found, data) for data in dict.fromkeys(data for data, _ in named)],
        seed=found["seed"],
    )
    write_whole(path, page.encode())


def _plot(found: Mapping[str, Any], data: str) -> Plot:
    names = [name for of, name in lines(found) if of == data]
    names = [name for name in names if any("percent" in (figure_of(r, data, name) or {}) for r in found["rows"])]

    def paint(axes: Axes) -> None:
        count = len(found["rows"])
        for number, row in enumerate(found["rows"]):
            places, percents, intervals = [], [], []
            for line, name in enumerate(names):
                figure = figure_of(row, data, name)
                if figure and "percent" in figure:
                    # Entries of one figure lie one below the other, so that their intervals can be seen.
                    places.append(line + 0.6 * ((number + 0.5) / count - 0.5))
                    percents.append(figure["percent"])
                    intervals.append((figure["percent"] - figure["low"], figure["high"] - figure["percent"]))
            axes.errorbar(
                percents, places, xerr=list(zip(*intervals, strict=True)) or None, fmt="o", markersize=4,
                capsize=2, color=COLOURS[number % len(COLOURS)], label=literal(row["name"]),
            )  # fmt: skip
        axes.set_yticks(range(len(names)), [literal(name) for name in names])
        axes.invert_yaxis()
        axes.set_xlabel("accuracy [%]")
        axes.grid(axis="x", alpha=0.25)
        axes.legend(frameon=False, fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0))

    height = FRAME + LINE * (len(names) + len(found["rows"]) / 2)
    return plot(data, "the figures of the table, with their intervals", paint, height)
