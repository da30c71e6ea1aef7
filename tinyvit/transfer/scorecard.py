"""Several networks side by side: everything that is measured of each, with intervals or the spread over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyvit.errors import UserError
from tinyvit.evaluation.published import any_set, folders
from tinyvit.training.folder import write_json
from tinyvit.transfer.scorer import MEASURES, Figures, Scorer

SCORECARD = "scorecard.json"
# What the published sets are called among the data sets.
PUBLISHED = "ImageNet's sets"


@dataclass(frozen=True)
class Entry:
    """A line of the scorecard: its name, and the checkpoints that differ by their seeds only."""

    name: str
    checkpoints: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Entry:
        """From `NAME=CHECKPOINT,CHECKPOINT` or a checkpoint alone, which is its own name."""
        name, sign, checkpoints = text.partition("=")
        found = tuple(part for part in (checkpoints if sign else text).split(",") if part)
        if not found or not name:
            raise UserError(f"{text!r} names no checkpoint; write NAME=CHECKPOINT, of several seeds NAME=ONE,TWO")
        return cls(name if sign else text, found)


def parse_data(places: Sequence[str]) -> dict[str, str]:
    """Data sets by name, from `NAME=PLACE` or a place alone, which is called by its last part."""
    found = {}
    for text in places:
        name, sign, place = text.partition("=")
        found[name if sign else Path(text).name] = place if sign else text
    if len(found) < len(places):
        raise UserError("two data sets have one name; write NAME=PLACE")
    return found


def parse_measures(names: Sequence[str]) -> tuple[str, ...]:
    """Those of MEASURES that are named; all where none is."""
    if unknown := [name for name in names if name not in MEASURES]:
        raise UserError(f"there is no measure {unknown[0]!r}; choose of {', '.join(MEASURES)}")
    return tuple(names) or MEASURES


def scorecard(
    scorer: Scorer, entries: Sequence[Entry], data: Mapping[str, str], sets: str | None, measures: Sequence[str]
) -> dict[str, Any]:
    """What the available data says of each entry; kept as SCORECARD in the scorer's folder.

    `rows` has a line for each entry: name, checkpoints, parameters, macs, size, and `figures` by data set and name,
    each with percent and the ends of an interval (see `spread`), or with `why` it could not be had.
    """
    if len({entry.name for entry in entries}) < len(entries):
        raise UserError("two checkpoints have one name; write NAME=CHECKPOINT")
    if not data and not sets:
        raise UserError("there is nothing to judge by; give --data or --sets")
    if PUBLISHED in data:
        raise UserError(f"{PUBLISHED!r} is what --sets is called; give the data set another name")
    if sets and not any_set(sets):
        raise UserError(f"{sets} has none of ImageNet's sets; their folders are {', '.join(folders())}")
    rows = []
    for entry in entries:
        of_seeds = [score_all(scorer, checkpoint, data, sets, measures) for checkpoint in entry.checkpoints]
        rows.append(
            {
                "name": entry.name,
                "checkpoints": list(entry.checkpoints),
                **scorer.size(entry.checkpoints[0]),
                "figures": {name: _together([of.get(name, {}) for of in of_seeds]) for name in of_seeds[0]},
            }
        )
    found = {"seed": scorer.seed, "data": dict(data), "sets": sets, "rows": rows}
    write_json(scorer.folder / SCORECARD, found)
    return found


def score_all(
    scorer: Scorer, checkpoint: str, data: Mapping[str, str], sets: str | None, measures: Sequence[str]
) -> dict[str, Figures]:
    """The figures of one checkpoint by data set; those of published sets under PUBLISHED."""
    figures = {name: scorer.transfer(checkpoint, place, measures) for name, place in data.items()}
    if sets and (published := scorer.published(checkpoint, sets)):
        figures[PUBLISHED] = published
    return figures


def _together(of_seeds: Sequence[Figures]) -> Figures:
    """The figures of several checkpoints as one."""
    first = of_seeds[0]
    return {name: spread([figures[name] for figures in of_seeds if name in figures]) for name in first}


def spread(figures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of one checkpoint the figure as it is, with its 95 % interval over images or episodes; of several their mean,
    and one standard deviation over them to both sides.
    """
    first = figures[0]
    if len(figures) == 1 or any("why" in figure for figure in figures):
        return first
    percents = [figure["percent"] for figure in figures]
    mean, deviation = statistics.mean(percents), statistics.stdev(percents)
    return {
        "percent": mean,
        "low": mean - deviation,
        "high": mean + deviation,
        "of": f"{len(figures)} checkpoints, each on {first['of']}",
        "each": percents,
    }


def lines(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every data set and figure that a row has, in order."""
    return list(
        dict.fromkeys(
            (data, name) for row in found["rows"] for data, figures in row["figures"].items() for name in figures
        )
    )


def figure_of(row: Mapping[str, Any], data: str, name: str) -> dict[str, Any] | None:
    """A figure of a row; None where it has none."""
    found: dict[str, Any] | None = row["figures"].get(data, {}).get(name)
    return found


def told(figure: Mapping[str, Any] | None) -> str:
    """A figure in short: percent and half of its interval."""
    if figure is None or "why" in figure:
        return "-"
    return f"{figure['percent']:.1f} ± {(figure['high'] - figure['low']) / 2:.1f}"
