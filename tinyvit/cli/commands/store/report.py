"""`tinyvit store report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from logitstore import LogitStore
from tinyvit.cli.options import AsJson, StorePath
from tinyvit.cli.output import show
from tinyvit.reports.store_page import write_store_page
from tinyvit.runtime.progress import default_progress


def report(
    store: StorePath,
    data: Annotated[
        str | None, typer.Option(help="the shards: then there are images, and labels if they have them")
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="the page")] = Path("report.html"),
    rows: Annotated[int, typer.Option(min=1, help="look at so many rows, drawn at random")] = 50_000,
    seed: Annotated[int, typer.Option(min=0, help="which ones")] = 0,
    as_json: AsJson = False,
) -> None:
    """One page about what the teacher said: progress, figures, labels, images with their views. Opens offline."""
    found = write_store_page(out, LogitStore.open(store), data, rows, seed, default_progress())
    show(found, as_json, store)
