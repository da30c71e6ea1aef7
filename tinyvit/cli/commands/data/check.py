"""`tinyvit data check`."""

from __future__ import annotations

from typing import Annotated

import typer

from tinyvit.cli.options import AsJson, Shards
from tinyvit.cli.output import show
from tinyvit.data.loader import default_workers
from tinyvit.datasets.check import check_data
from tinyvit.runtime.progress import default_progress


def check(
    data: Shards,
    workers: Annotated[int | None, typer.Option(min=0, help="processes that decode")] = None,
    as_json: AsJson = False,
) -> None:
    """Decode every image: cut tars, broken and odd images, duplicates, sizes, classes. Exit code 1 for a fault."""
    found = check_data(data, default_workers() if workers is None else workers, default_progress())
    show(found, as_json, data)
    if found["faults"]:
        raise typer.Exit(1)
