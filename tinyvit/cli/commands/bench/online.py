"""`tinyvit bench online`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinyvit.cli.benchmarks import benchmark, tell
from tinyvit.cli.options import AsJson, OutFile
from tinyvit.runtime.progress import default_progress


def online(
    folder: Annotated[Path, typer.Argument(help="where runs and stores go")],
    data: Annotated[Path, typer.Option(help="Fashion-MNIST as `tinyvit data fetch` leaves it")],
    teacher: Annotated[str, typer.Option(help="a teacher of its ten classes")],
    plot: Annotated[Path | None, typer.Option("--picture", help="also draw the losses into this PNG")] = None,
    out: OutFile = None,
    as_json: AsJson = False,
) -> None:
    """Training on stored logits beside training with the live teacher: the loss of each step."""
    bench = benchmark("offline_online")

    found = bench.compare(folder, data, teacher, default_progress())
    if plot:
        bench.draw(found, plot)
    tell(found, bench, out, as_json)
