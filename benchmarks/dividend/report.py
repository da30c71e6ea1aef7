"""What a comparison found: a table by number of labels, one of what matters, and an image."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter
from rich.table import Table

from benchmarks.dividend.setting import ALL_LABELS, ANSWERS, DISTILLED, LABELS, MAIN
from benchmarks.tables import file_table, mean_and_spread, terminal

COLUMNS = (
    "labels", "teacher", "student: labels alone", "logits of these, then labels", "logits of all images",
    "then labels", "gain", "of each seed",
)  # fmt: skip
MATTERS = ("what", "value", "steps", "teacher", "student", "against the first", "of each seed")
CURVES = {
    LABELS: ("student, labels alone", "tab:orange"),
    ANSWERS: ("student, logits of the labelled images, then labels", "tab:green"),
    DISTILLED: ("student, logits of all images, then labels", "tab:blue"),
}

Line = dict[str, Any]


class Found:
    """The lines of a comparison, to be asked by what they are of."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self.lines = lines

    def of(self, **wanted: Any) -> list[Line]:
        """Those whose fields have these values, in the order of seeds."""
        fitting = [line for line in self.lines if all(line[name] == value for name, value in wanted.items())]
        return sorted(fitting, key=lambda line: line["seed"])

    def main(self, way: str, count: int, name: str = "top1") -> list[float]:
        """A figure of a way with so many labels, for each seed."""
        return [line[name] for line in self.of(what=MAIN.what, way=way, labelled=count)]

    def gains(self, count: int) -> list[float]:
        """What the logits of all images add to labels alone, for each seed that has both."""
        labels, distilled = (
            {line["seed"]: line["top1"] for line in self.of(what=MAIN.what, way=way, labelled=count)}
            for way in (LABELS, DISTILLED)
        )
        return [distilled[seed] - labels[seed] for seed in labels if seed in distilled]

    @property
    def counts(self) -> list[int]:
        """The numbers of labels."""
        return sorted({line["labelled"] for line in self.of(what=MAIN.what, way=DISTILLED)})

    @property
    def bound(self) -> list[float]:
        """Top-1 of students on the labels of all images."""
        return [line["top1"] for line in self.of(what=MAIN.what, way=ALL_LABELS)]

    @property
    def steps(self) -> str:
        """How many steps the students of the main comparison took: one number, as they are to be compared."""
        return ", ".join(f"{steps:,}" for steps in sorted({line["steps"] for line in self.of(what=MAIN.what)}))


def table(lines: Sequence[Line]) -> Table:
    """What was measured, for a terminal."""
    found = Found(lines)
    caption = f"top-1 in percent, {len({line['seed'] for line in lines})} seeds, mean ± standard deviation"
    if not found.counts:
        return terminal(MATTERS, _matters(found), caption)
    return terminal(COLUMNS, _rows(found), f"{caption}; students of {found.steps} steps each")


def markdown(lines: Sequence[Line]) -> str:
    """What was measured, as a table of a results file: by number of labels, or what matters."""
    found = Found(lines)
    return file_table(COLUMNS, _rows(found)) if found.counts else file_table(MATTERS, _matters(found))


def draw(lines: Sequence[Line], file: Path) -> None:
    """Top-1 against the number of labels, of every way; bars are standard deviations over seeds."""
    found = Found(lines)
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.subplots()
    teachers = {count: found.main(DISTILLED, count, "teacher_top1") for count in found.counts}
    _curve(axes, teachers, "the teacher, fine-tuned on the labels", "black", "--")
    for way, (words, colour) in CURVES.items():
        curve = {count: values for count in found.counts if (values := found.main(way, count))}
        _curve(axes, curve, words, colour, "-")
    if found.bound:
        words = "student, labels of all images"
        axes.axhline(statistics.mean(found.bound), color="grey", linestyle=":", linewidth=1.5, label=words)
    axes.set_xscale("log")
    axes.set_xticks(found.counts)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="labelled images", ylabel="top-1 on the test images [%]")
    axes.set_title(f"Every student took {found.steps} steps", loc="left", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    figure.savefig(file, dpi=120)


def _curve(axes: Any, values: dict[int, list[float]], words: str, colour: str, style: str) -> None:
    if not values:
        return
    means = [statistics.mean(of) for of in values.values()]
    spreads = [statistics.stdev(of) if len(of) > 1 else 0.0 for of in values.values()]
    axes.errorbar(
        list(values), means, spreads, color=colour, linestyle=style, marker="o", markersize=4, capsize=3, label=words
    )


def _rows(found: Found) -> list[list[str]]:
    rows = []
    for count in found.counts:
        teacher, labels = found.main(DISTILLED, count, "teacher_top1"), found.main(LABELS, count)
        gains = found.gains(count)
        # Nobody should take a student for taught that knew better than its teacher.
        worse = ", worse than the student" if labels and statistics.mean(teacher) < statistics.mean(labels) else ""
        rows.append(
            [
                f"{count:,}",
                _told(teacher) + worse,
                _told(labels),
                _told(found.main(ANSWERS, count)),
                _told(found.main(DISTILLED, count, "distill_top1")),
                _told(found.main(DISTILLED, count)),
                _told(gains),
                _each(gains),
            ]
        )
    if found.bound:
        rows.append(["all", "", _told(found.bound), "", "", "", "", ""])
    return rows


def _matters(found: Found) -> list[list[str]]:
    """A row for each setting, beside the first one of its kind and way, seed by seed."""
    rows = []
    first: dict[tuple[str, str], list[float]] = {}
    for what, value, way in dict.fromkeys((line["what"], line["value"], line["way"]) for line in found.lines):
        of = found.of(what=what, value=value, way=way)
        top1 = [line["top1"] for line in of]
        differences = [a - b for a, b in zip(top1, first.setdefault((what, way), top1), strict=True)]
        rows.append(
            [
                what,
                f"{value}, {CURVES[way][0].removeprefix('student, ')}" if way != DISTILLED else value,
                f"{of[0]['steps']:,}",
                mean_and_spread([line["teacher_top1"] for line in of], 1) if "teacher_top1" in of[0] else "",
                mean_and_spread(top1, 1),
                mean_and_spread(differences, 1) if any(differences) else "",
                _each(differences) if any(differences) else "",
            ]
        )
    return rows


def _told(values: Sequence[float]) -> str:
    """Nothing where nothing is known yet."""
    return mean_and_spread(values, 1) if values else ""


def _each(differences: Sequence[float]) -> str:
    return ", ".join(f"{value:+.1f}" for value in differences)
