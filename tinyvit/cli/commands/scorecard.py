"""`tinyvit scorecard`: what networks are worth beyond the task that they were trained for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tinyvit.cli.options import AsJson, Precision, Workers
from tinyvit.cli.output import show
from tinyvit.data.loader import default_workers
from tinyvit.runtime.progress import default_progress
from tinyvit.transfer.page import write_page
from tinyvit.transfer.scorecard import Entry, figure_of, lines, parse_data, parse_measures, told
from tinyvit.transfer.scorecard import scorecard as score_all
from tinyvit.transfer.scorer import Scorer


def scorecard(
    networks: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]CHECKPOINT...",
            help="stages' run folders, exported students, teachers; of several seeds NAME=ONE,TWO",
        ),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]PLACE", help="a place with train and val inside, shards or image folders; repeatable"
        ),
    ] = None,
    sets: Annotated[
        str | None, typer.Option(help="a folder of ImageNet's sets (val, imagenet-a, ...), by their published names")
    ] = None,
    run_dir: Annotated[Path, typer.Option(help="features, figures and the page are kept here")] = Path(
        "runs/scorecard"
    ),
    only: Annotated[
        list[str] | None, typer.Option(metavar="top-1|linear|knn|few-shot", help="only this measure; repeatable")
    ] = None,
    precision: Precision = "auto",
    seed: Annotated[int, typer.Option(min=0, help="draws validation images and episodes")] = 0,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Linear probe, neighbours, few-shot and published sets: networks side by side, as a table and a page."""
    count = default_workers() if workers is None else workers
    scorer = Scorer.here(run_dir, seed, count, default_progress(), precision)
    entries = [Entry.parse(text) for text in networks]
    found = score_all(scorer, entries, parse_data(data or []), sets, parse_measures(only or []))
    page = run_dir / "scorecard.html"
    write_page(page, found)
    if as_json:
        show(found, as_json)
        return
    console = Console()
    console.print(_table(found))
    console.print("± is half of a 95 % interval; of several checkpoints one standard deviation")
    console.print(f"page: {page}", markup=False, soft_wrap=True)


def _table(found: dict[str, Any]) -> Table:
    table = Table(title="Scorecard: accuracy in percent", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("data")
    table.add_column("figure")
    for row in found["rows"]:
        table.add_column(escape(row["name"]), justify="right")
    rows = found["rows"]
    table.add_row("", "M parameters", *(f"{row['parameters'] / 1e6:.2f}" for row in rows))
    table.add_row("", "G multiply-adds", *(f"{row['macs'] / 1e9:.3f}" for row in rows))
    table.add_row("", "pixels a side", *(str(row["size"]) for row in rows))
    table.add_section()
    before = None
    for data, name in lines(found):
        told_of = [told(figure_of(row, data, name)) for row in rows]
        if any(text != "-" for text in told_of):
            table.add_row("" if data == before else escape(data), name, *told_of)
            before = data
    return table
