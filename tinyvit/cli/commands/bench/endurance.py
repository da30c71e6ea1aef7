"""`tinyvit bench endurance`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tinyvit.cli.benchmarks import benchmark, tell
from tinyvit.cli.options import AsJson
from tinyvit.runtime.progress import default_progress


def endurance(
    minutes: Annotated[float, typer.Option(min=0.1, help="how long")] = 10,
    workers: Annotated[int, typer.Option(min=0, help="data processes")] = 4,
    as_json: AsJson = False,
) -> None:
    """Loading photographs, joined with a store, for minutes on end: the longest wait, and memory over time."""
    bench, loading = benchmark("endurance"), benchmark("loader")

    progress = default_progress()
    with tempfile.TemporaryDirectory() as folder:
        found = bench.endure(Path(folder), loading.prepare(Path(folder), progress), minutes, workers, progress)
    tell(found, bench, None, as_json)
