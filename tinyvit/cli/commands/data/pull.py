"""`tinyvit data pull`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinyvit.cli.options import AsJson
from tinyvit.cli.output import show
from tinyvit.data.index import index_shards
from tinyvit.datasets.pull import pull as fetch_shards
from tinyvit.runtime.progress import default_progress


def pull(
    source: Annotated[str, typer.Argument(help="where shards are: a URL, a pattern, or pipe:COMMAND")],
    out: Annotated[Path, typer.Argument(help="the local folder they are fetched into")],
    allow_pipe: Annotated[bool, typer.Option("--allow-pipe", help="run the commands of a pipe: source")] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch shards from a bucket, a web server, the hub or commands into a folder, and index them. Goes on."""
    progress = default_progress()
    shards = fetch_shards(source, out, allow_pipe, progress)
    index = index_shards(out, progress)
    show({"shards": len(shards), "samples": sum(index.counts)}, as_json, str(out))
