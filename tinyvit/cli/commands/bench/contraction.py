"""`tinyvit bench contraction`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinyvit.cli.benchmarks import benchmark, tell
from tinyvit.cli.options import AsJson, OutFile, Overrides
from tinyvit.runtime.progress import default_progress


def contraction(
    folder: Annotated[Path, typer.Argument(help="data, store and runs are kept here; goes on where stopped")],
    seeds: Annotated[int, typer.Option(min=1, help="how often everything is done")] = 3,
    overrides: Overrides = None,
    out: OutFile = None,
    as_json: AsJson = False,
) -> None:
    """What contraction finds, beside random search of the same budget and students by hand, all trained in full."""
    bench = benchmark("contraction")

    tell(bench.compare(folder, seeds, overrides or [], default_progress()), bench, out, as_json)
