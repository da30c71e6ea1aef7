"""`tinyvit report`: what training has done so far, on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from tinyvit.cli.options import AsJson
from tinyvit.cli.output import show
from tinyvit.reports.run_page import write_run_page
from tinyvit.reports.stages import named, stage_folders
from tinyvit.runtime.progress import default_progress


def report(
    runs: Annotated[list[Path], typer.Argument(help="run folders, or folders of single stages; several are compared")],
    out: Annotated[Path, typer.Option("-o", "--out", help="the page")] = Path("report.html"),
    store: Annotated[
        str | None, typer.Option(help="stored logits to compare students with; default: those they learned from")
    ] = None,
    data: Annotated[str | None, typer.Option(help="the store's shards; default: those of the run")] = None,
    views: Annotated[int, typer.Option(min=1, help="ask each student about so many stored views")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="which ones")] = 0,
    as_json: AsJson = False,
) -> None:
    """One page about training runs, finished or under way: curves side by side, and student against teacher."""
    stages = named([folder for run in runs for folder in stage_folders(run)])
    found = write_run_page(out, stages, store, data, views, seed, default_progress())
    if as_json:
        show(found, as_json)
        return
    console = Console()
    table = Table(Column("stage", overflow="fold"))
    for heading in ("learns", "epochs", "loss", "validation", "as teacher", "state"):
        table.add_column(heading)
    against = {line["stage"]: line["agreement"] for line in found["compared"]}
    for line in found["stages"]:
        table.add_row(
            escape(line["name"]),
            line["learns"],
            f"{line['epochs']} of {line['of_epochs']}",
            "" if line["loss"] is None else f"{line['loss']:.3f}",
            "" if line["val_top1"] is None else f"{line['val_top1']:.2f} %",
            f"{against[line['name']]:.1f} %" if line["name"] in against else "",
            line["state"],
        )
    console.print(table)
    for note in found["notes"]:
        console.print(note, markup=False)
    console.print(f"{found['page']}: {found['page_bytes']:,} bytes", markup=False)
