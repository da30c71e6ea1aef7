"""A store that is made of the units of others, for the commands that do so."""

from __future__ import annotations

from collections.abc import Iterator

from logitstore import LogitStore, Unit
from tinyvit.cli.output import show
from tinyvit.runtime.progress import default_progress


def write_units(units: Iterator[Unit], target: str, most: int, as_json: bool) -> None:
    """Go through the units as they are written, `most` in all, and print what has become of the store."""
    count = 0
    with default_progress().task("copy", most, "units") as bar:
        for _ in units:
            count += 1
            bar.advance(1)
    made = LogitStore.open(target)
    result = {
        "store": target,
        "units": len(made.units()),
        "units_written_now": count,
        "missing": len(made.missing()),
        "sealed": made.sealed or "no",
    }
    show(result, as_json, target)
