"""`tinyvit store copy`."""

from __future__ import annotations

from typing import Annotated

import typer

from logitstore import LogitStore, copy_spec
from logitstore import copy as copy_store
from tinyvit.cli.options import AsJson, StorePath
from tinyvit.cli.written import write_units
from tinyvit.errors import UserError


def copy(
    source: StorePath,
    target: Annotated[str, typer.Argument(help="where the copy is made or completed: a folder or a URL")],
    epochs: Annotated[str | None, typer.Option(help="only these, such as 0:30; the copy counts from 0")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="keep fewer classes")] = None,
    encoding: Annotated[str | None, typer.Option(help="compact, fine or exact")] = None,
    as_json: AsJson = False,
) -> None:
    """Copy a store, or the part of it that is needed. Does only what is missing."""
    opened = LogitStore.open(source)
    chosen = _range(epochs) if epochs else None
    units = copy_spec(opened.spec, chosen, top_k, encoding).blocks * len(opened.table)
    write_units(copy_store(opened, target, chosen, top_k, encoding), target, units, as_json)


def _range(text: str) -> range:
    first, _, last = text.partition(":")
    try:
        return range(int(first), int(last) if last else int(first) + 1)
    except ValueError as fault:
        raise UserError(f"--epochs {text} is not understood; write one epoch as 3, or the first ten as 0:10") from fault
