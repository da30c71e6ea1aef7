"""`tinyvit bench scale`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tinyvit.cli.benchmarks import benchmark, tell
from tinyvit.cli.options import AsJson, OutFile, Overrides
from tinyvit.runtime.progress import default_progress


def scale(
    bucket: Annotated[str | None, typer.Option(help="also make the large store there, such as s3://BUCKET/x")] = None,
    overrides: Overrides = None,
    out: OutFile = None,
    as_json: AsJson = False,
) -> None:
    """Labelling beside its bare teacher; a store of ImageNet-21k's size; what Prefect's tasks take."""
    bench = benchmark("scale")

    with tempfile.TemporaryDirectory() as folder:
        found = bench.measure(Path(folder), bucket, overrides or [], default_progress())
    tell(found, bench, out, as_json)
