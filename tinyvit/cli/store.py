"""`tinyvit store`: look at what a teacher said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from storage import LogitStore, Rows, StoreError
from tinyvit.cli.output import show
from tinyvit.errors import UserError
from tinyvit.store_facts import best_classes, describe

app = typer.Typer(no_args_is_help=True, help="Look at a logit store.")

StorePath = Annotated[Path, typer.Argument(help="a logit store")]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]


@app.command()
def info(store: StorePath, as_json: AsJson = False) -> None:
    """What a store is a record of, how complete it is and what it weighs."""
    show(describe(LogitStore.open(store)), as_json, str(store))


@app.command("show")
def show_rows(
    store: StorePath,
    epoch: Annotated[int, typer.Option(min=0, help="which view of the images")] = 0,
    shard: Annotated[int, typer.Option(min=0, help="which shard, by number")] = 0,
    slot: Annotated[int, typer.Option(min=0, help="the first sample")] = 0,
    count: Annotated[int, typer.Option(min=1, help="how many samples")] = 3,
    top: Annotated[int, typer.Option(min=1, help="how many classes of each")] = 5,
    as_json: AsJson = False,
) -> None:
    """What the teacher said about some views of one shard."""
    opened = LogitStore.open(store)
    if epoch >= opened.spec.epochs or shard >= len(opened.table):
        raise UserError(f"the store has epochs 0..{opened.spec.epochs - 1} and shards 0..{len(opened.table) - 1}")
    if slot >= opened.table.samples[shard]:
        raise UserError(f"shard {shard} has slots 0..{opened.table.samples[shard] - 1}")
    rows = opened.read(epoch, shard)
    slots = range(slot, min(slot + count, opened.table.samples[shard]))
    views = [_view(rows, s, top, opened.class_names) for s in slots]
    place = {"epoch": epoch, "shard": opened.table.name[shard]}
    if as_json:
        typer.echo(json.dumps({**place, "views": views}, indent=2))
        return
    console = Console()
    for view in views:
        console.print(_table(view, f"{place['shard']}, slot {view['slot']}, epoch {epoch}, seed {view['seed']}"))


def _view(rows: Rows, slot: int, top: int, names: list[str] | None) -> dict[str, Any]:
    if not rows.valid[slot]:
        return {"slot": slot, "seed": int(rows.seed[slot]), "valid": False, "classes": [], "residual": None}
    best = best_classes(rows, slot)
    return {
        "slot": slot,
        "seed": int(rows.seed[slot]),
        "valid": True,
        "classes": [{"id": c, "name": names[c] if names else str(c), "probability": p} for c, p in best[:top]],
        "kept": sum(p for _, p in best),
        "residual": float(rows.residual[slot]),
    }


def _table(view: dict[str, Any], title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    if not view["valid"]:
        table.add_row("no answer: the image could not be decoded, or the teacher's answer was not finite")
        return table
    for entry in view["classes"]:
        bar = "█" * max(1, round(30 * entry["probability"]))
        table.add_row(f"{100 * entry['probability']:5.1f} %", bar, str(entry["id"]), entry["name"][:60])
    table.add_row(f"{100 * view['residual']:5.1f} %", "", "", "outside the kept classes", style="dim")
    return table


@app.command()
def verify(store: StorePath, as_json: AsJson = False) -> None:
    """Read every unit back: checksums, ids, order, residuals. Exit code 1 when something is wrong."""
    from tinyvit.label import verify_units
    from tinyvit.progress import default_progress

    try:
        opened = LogitStore.open(store)
        faults = verify_units(opened, default_progress())
        missing = len(opened.missing())
    except StoreError as fault:
        raise UserError(str(fault)) from None
    result = {"units": len(opened.units()), "missing": missing, "faulty": len(faults), "faults": faults}
    show(result, as_json, str(store))
    if faults or missing:
        raise typer.Exit(1)
