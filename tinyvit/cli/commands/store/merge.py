"""`tinyvit store merge`."""

from __future__ import annotations

from typing import Annotated

import typer

from logitstore import LogitStore
from logitstore import merge as merge_stores
from tinyvit.cli.options import AsJson
from tinyvit.cli.written import write_units


def merge(
    target: Annotated[str, typer.Argument(help="the store that is made or completed")],
    sources: Annotated[list[str], typer.Argument(help="stores of the same specification")],
    as_json: AsJson = False,
) -> None:
    """One store out of the units that several machines labelled. Does only what is missing."""
    opened = [LogitStore.open(source) for source in sources]
    write_units(merge_stores(opened, target), target, len(opened[0].units()), as_json)
