"""`tinyvit data`: make, fetch, pull, index and check shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tinyvit.cli.options import AsJson
from tinyvit.cli.output import show
from tinyvit.errors import UserError

app = typer.Typer(no_args_is_help=True, help="Make, fetch, pull, index and check WebDataset shards.")

Shards = Annotated[str, typer.Argument(help="shards: a folder, a URL or a pattern such as URL/{000..127}.tar")]


@app.command()
def make(
    source: Annotated[Path, typer.Argument(help="a folder with a sub-folder or an archive a class, or a .csv file")],
    out: Annotated[Path, typer.Argument(help="the folder for the shards")],
    per_shard: Annotated[int, typer.Option(min=1, help="pictures a shard")] = 2000,
    seed: Annotated[int, typer.Option(help="decides the order of the pictures")] = 0,
    max_side: Annotated[
        int | None, typer.Option(min=1, help="make larger pictures smaller (JPEG); default: bytes as they are")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="processes; default: one a core, at most eight")] = None,
    as_json: AsJson = False,
) -> None:
    """Pack pictures into shards, shuffled across classes, and index them. Started again, it goes on.

    SOURCE is an image folder (a sub-folder a class), a folder of archives (a .tar or .zip a class, as ImageNet-21k
    comes), or a .csv file with the columns path and label. Of a folder with train/ and val/ (or test/) that are such
    folders, each becomes a folder of shards in OUT, with the classes of train.
    """
    from tinyvit.data.folders import told
    from tinyvit.data.index import index_shards
    from tinyvit.data.loader import default_workers
    from tinyvit.datasets.make import write_shards
    from tinyvit.datasets.sources import parts_of
    from tinyvit.runtime.progress import default_progress

    progress, made = default_progress(), {}
    for part, found in parts_of(source).items():
        shards = write_shards(
            found.pictures,
            out / part,
            classes=found.classes,
            per_shard=per_shard,
            seed=seed,
            max_side=max_side,
            workers=default_workers() if workers is None else workers,
            progress=progress,
        )
        index_shards(out / part, progress)
        made[part] = {
            "shards": len(shards),
            "pictures": len(found.pictures),
            "classes": len(found.classes),
            "classes_without_pictures": found.empty,
            "left_out": found.left_out if as_json else told(found.left_out) or "nothing",
        }
    show(made.get("", made), as_json, str(out))


@app.command()
def fetch(
    name: Annotated[
        Literal["example", "fashion-mnist", "digits", "fashion-scenes"], typer.Argument(help="the data set")
    ],
    out: Annotated[Path, typer.Argument(help="the folder for train/ and val/")],
    source: Annotated[Path | None, typer.Option(help="a folder that has the original files already")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a data set: Fashion-MNIST's 70,000 pictures, the example's 2,500 of them or scikit-learn's 1,797 digits as
    shards, or scenes in COCO's format, rendered of Fashion-MNIST's objects on photographs. The example's recipes look
    for theirs in examples/fashion-mnist.
    """
    from tinyvit.datasets.digits import make_digits
    from tinyvit.datasets.fetch import fetch_fashion_mnist, make_example
    from tinyvit.datasets.scenes import make_scenes
    from tinyvit.runtime.progress import default_progress

    progress = default_progress()
    if name == "digits" and source:
        raise UserError("the digits come with scikit-learn; leave --source out")
    if name == "digits":
        counts = make_digits(out, progress)
    elif name == "fashion-scenes":
        counts = make_scenes(out, progress, source)
    elif name == "example":
        counts = make_example(out, progress, source)
    else:
        counts = fetch_fashion_mnist(out, progress, source)
    show(counts, as_json, name)


@app.command()
def pull(
    source: Annotated[str, typer.Argument(help="where shards are: a URL, a pattern, or pipe:COMMAND")],
    out: Annotated[Path, typer.Argument(help="the local folder they are fetched into")],
    allow_pipe: Annotated[bool, typer.Option("--allow-pipe", help="run the commands of a pipe: source")] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch shards from a bucket, a web server, the hub or commands into a folder, and index them. Goes on."""
    from tinyvit.data.index import index_shards
    from tinyvit.datasets.pull import pull as fetch_shards
    from tinyvit.runtime.progress import default_progress

    progress = default_progress()
    shards = fetch_shards(source, out, allow_pipe, progress)
    index = index_shards(out, progress)
    show({"shards": len(shards), "samples": sum(index.counts)}, as_json, str(out))


@app.command()
def check(
    data: Shards,
    workers: Annotated[int | None, typer.Option(min=0, help="processes that decode")] = None,
    as_json: AsJson = False,
) -> None:
    """Decode every picture: cut tars, broken and odd pictures, duplicates, sizes, classes. Exit code 1 for a fault."""
    from tinyvit.data.loader import default_workers
    from tinyvit.datasets.check import check_data
    from tinyvit.runtime.progress import default_progress

    found = check_data(data, default_workers() if workers is None else workers, default_progress())
    show(found, as_json, data)
    if found["faults"]:
        raise typer.Exit(1)


@app.command()
def index(
    data: Shards,
    as_json: AsJson = False,
) -> None:
    """Count the samples, check every tar to its end, take digests; kept beside the shards as index.json."""
    from tinyvit.data.index import INDEX_NAME, index_shards
    from tinyvit.runtime.progress import default_progress

    index = index_shards(data, default_progress())
    table = index.table
    result = {
        "shards": len(table),
        "samples": sum(table.samples),
        "fewest_in_a_shard": min(table.samples),
        "most_in_a_shard": table.slots,
        "index": str(index.folder / INDEX_NAME),
    }
    show(result, as_json, data)
