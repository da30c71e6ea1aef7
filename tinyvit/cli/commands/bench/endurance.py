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
    far: Annotated[bool, typer.Option("--far", help="from a server of 30 ms and 60 MB/s, through a cache")] = False,
    as_json: AsJson = False,
) -> None:
    """Loading photographs, joined with a store, for minutes on end: the longest wait, and memory over time."""
    bench, loading = benchmark("endurance"), benchmark("loader")

    progress = default_progress()
    with tempfile.TemporaryDirectory() as folder:
        index = loading.prepare(Path(folder), progress)
        asked = (Path(folder), index, minutes, workers, progress)
        found = bench.endure_far(*asked, delay=0.03, rate=60e6) if far else bench.endure(*asked)
    tell(found, bench, None, as_json)
