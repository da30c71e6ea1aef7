"""`tinyvit store merge`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from logitstore import LogitStore, Unit
from logitstore import merge as merge_stores
from tinyvit.cli.options import AsJson
from tinyvit.cli.output import show
from tinyvit.runtime.progress import default_progress


def merge(
    target: Annotated[str, typer.Argument(help="the store that is made or completed")],
    sources: Annotated[list[str], typer.Argument(help="stores of the same specification")],
    as_json: AsJson = False,
) -> None:
    """One store out of the units that several machines labelled. Does only what is missing."""
    opened = [LogitStore.open(source) for source in sources]
    _transfer(merge_stores(opened, target), target, len(opened[0].units()), as_json)


def _transfer(units: Iterator[Unit], target: str, most: int, as_json: bool) -> None:

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
