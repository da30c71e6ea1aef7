"""`tinyvit bench stream`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tinyvit.cli.benchmarks import benchmark, tell
from tinyvit.cli.options import AsJson, OutFile
from tinyvit.runtime.progress import default_progress


def stream(
    delay: Annotated[float, typer.Option(help="Milliseconds until the server answers.")] = 30,
    rate: Annotated[float, typer.Option(help="MB that it sends a second on each connection.")] = 60,
    out: OutFile = None,
    as_json: AsJson = False,
) -> None:
    """The data path from a server that is far away: images a second beside a local folder, and webdataset's."""
    bench = benchmark("stream")

    with tempfile.TemporaryDirectory() as folder:
        found = bench.measure(Path(folder), delay / 1000, rate * 1e6, default_progress())
    tell(found, bench, out, as_json)
