"""`tinyvit bench report`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tinyvit.cli.benchmarks import benchmark, tell
from tinyvit.cli.options import AsJson, OutFile
from tinyvit.runtime.progress import default_progress


def report(out: OutFile = None, as_json: AsJson = False) -> None:
    """`tinyvit store report` on a million synthetic rows: time, memory, size of the page."""
    bench = benchmark("report")

    with tempfile.TemporaryDirectory() as folder:
        found = bench.measure(Path(folder), default_progress())
    tell(found, bench, out, as_json)
