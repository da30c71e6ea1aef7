"""`tinyvit import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinyvit.cli.options import AsJson
from tinyvit.cli.output import show
from tinyvit.models.released import import_released


def import_(
    checkpoint: Annotated[Path, typer.Argument(help="a .pth of the paper's model zoo")],
    out: Annotated[Path, typer.Argument(help="the folder to make")],
    weights: Annotated[
        str | None, typer.Option(help="take those of this name, such as model; default: an average (EMA) if it has one")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """One of the paper's released students as a folder that timm loads."""
    show(import_released(checkpoint, out, weights), as_json, "imported")
