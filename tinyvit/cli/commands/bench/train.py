"""`tinyvit bench train`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tinyvit.cli.benchmarks import benchmark, tell
from tinyvit.cli.options import AsJson, OutFile, Overrides
from tinyvit.config import load_recipe
from tinyvit.data.location import resolve_data
from tinyvit.runtime.progress import default_progress


def train(
    recipe: Annotated[
        str, typer.Argument(help="whose student, teacher and first stage on a teacher are timed")
    ] = "example",
    data: Annotated[str | None, typer.Option(help="labelled shards in a folder; default: the recipe's")] = None,
    overrides: Overrides = None,
    out: OutFile = None,
    as_json: AsJson = False,
) -> None:
    """Training beside a bare loop over timm's loader: on labels, on stored logits, with the live teacher."""
    bench = benchmark("training")

    resolved = resolve_data(
        load_recipe(recipe, ["label.epochs=2", "label.epochs_per_unit=2", *(overrides or [])]), data
    )
    with tempfile.TemporaryDirectory() as folder:
        tell(bench.measure(resolved, Path(folder), default_progress()), bench, out, as_json)
