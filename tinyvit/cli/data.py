"""`tinyvit data`: make, fetch and index shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tinyvit.cli.output import show

app = typer.Typer(no_args_is_help=True, help="Make, fetch and index WebDataset shards.")

AsJson = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]


@app.command()
def make(
    source: Annotated[Path, typer.Argument(help="an image folder: one sub-folder of pictures a class")],
    out: Annotated[Path, typer.Argument(help="the folder for the shards; it must hold none")],
    per_shard: Annotated[int, typer.Option(min=1, help="pictures a shard")] = 2000,
    seed: Annotated[int, typer.Option(help="decides the order of the pictures")] = 0,
    as_json: AsJson = False,
) -> None:
    """Pack an image folder into shards, shuffled across classes, the original bytes kept."""
    from tinyvit.data.make import from_image_folder, write_shards

    pictures, classes = from_image_folder(source)
    shards = write_shards(pictures, out, classes=classes, per_shard=per_shard, seed=seed)
    show({"shards": len(shards), "pictures": len(pictures), "classes": len(classes)}, as_json, str(out))


@app.command()
def fetch(
    name: Annotated[Literal["fashion-mnist"], typer.Argument(help="the data set")],
    out: Annotated[Path, typer.Argument(help="the folder for train/ and val/")],
    source: Annotated[Path | None, typer.Option(help="a folder that has the original files already")] = None,
    as_json: AsJson = False,
) -> None:
    """Make the shards of a published data set: all 70,000 images of Fashion-MNIST (MIT licence)."""
    from tinyvit.data.fetch import fetch_fashion_mnist

    show(fetch_fashion_mnist(out, source), as_json, name)


@app.command()
def index(
    folder: Annotated[Path, typer.Argument(help="a folder of shards")],
    as_json: AsJson = False,
) -> None:
    """Count the samples, check every tar to its end, take digests; kept beside the shards as index.npz."""
    from tinyvit.data.index import INDEX_NAME, index_folder
    from tinyvit.progress import default_progress

    table = index_folder(folder, default_progress())
    result = {
        "shards": len(table),
        "samples": sum(table.samples),
        "fewest_in_a_shard": min(table.samples),
        "most_in_a_shard": table.slots,
        "index": str(folder / INDEX_NAME),
    }
    show(result, as_json, str(folder))
