"""`tinyvit contract`: scale a student down to a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tinyvit.cli.options import AsJson, Data, Overrides, Workers
from tinyvit.cli.output import show, stopping_by_signal
from tinyvit.config import load_recipe
from tinyvit.contraction.run import contract as search_all
from tinyvit.contraction.run import open_search
from tinyvit.data.index import index_shards
from tinyvit.data.loader import default_workers
from tinyvit.data.location import resolve_data
from tinyvit.labelling.verify_replay import open_for_training
from tinyvit.runtime.progress import default_progress


def contract(
    recipe: Annotated[str, typer.Argument(help="name of a recipe with a contract section, or a .yaml file")],
    store: Annotated[str, typer.Option(help="a sealed logit store: candidates learn from it and are scored on it")],
    run_dir: Annotated[Path, typer.Option(help="where every candidate is kept; a stopped search goes on there")],
    data: Data = None,
    overrides: Overrides = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Find the best smaller student under a budget of parameters, speed or memory; leaves a recipe that trains it."""
    resolved = resolve_data(load_recipe(recipe, overrides or []), data)
    count, progress = default_workers() if workers is None else workers, default_progress()
    # Says what is wrong with the recipe before the store is read.
    _ = resolved.contract
    with stopping_by_signal() as stop:
        index = index_shards(resolved.data.train, progress)
        opened = open_for_training(resolved, store, index, count)
        found = search_all(open_search(resolved, run_dir, opened, index, count, progress, stop))
    if as_json:
        show(found, as_json)
        return
    console = Console()
    console.print(_table(found))
    console.print(
        f"{found['candidates_trained']} students trained on {found['images_trained_on']:,} images in all, "
        f"{found['networks_measured']} measured"
    )
    for name in ("recipe", "picture"):
        console.print(f"{name}: {found[name]}", markup=False, soft_wrap=True)


def _table(found: dict[str, Any]) -> Table:
    """The path: of each round the student that was chosen."""
    table = Table(title="From the first student to the budget", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("round", justify="right")
    # Wide enough for a name in two lines: the channels and blocks, and the rest.
    table.add_column("student", min_width=24)
    for heading in ("M params", "G MACs", "speed", "loss", "agrees"):
        table.add_column(heading, justify="right", no_wrap=True)
    for of in found["rounds"]:
        (chosen,) = (entry for entry in of["candidates"] if entry["chosen"])
        table.add_row(
            str(of["round"]),
            chosen["student"],
            f"{chosen['parameters'] / 1e6:.2f}",
            f"{chosen['macs'] / 1e9:.3f}",
            f"{chosen['throughput']:.2f}",
            f"{chosen['loss']:.3f}",
            f"{chosen['agreement']:.1f} %",
        )
    return table
