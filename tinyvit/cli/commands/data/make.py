"""`tinyvit data make`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinyvit.cli.options import AsJson
from tinyvit.cli.output import show
from tinyvit.data.folders import told
from tinyvit.data.index import index_shards
from tinyvit.data.loader import default_workers
from tinyvit.datasets.make import write_shards
from tinyvit.datasets.sources import parts_of
from tinyvit.runtime.progress import default_progress


def make(
    source: Annotated[Path, typer.Argument(help="a folder with a sub-folder or an archive a class, or a .csv file")],
    out: Annotated[Path, typer.Argument(help="the folder for the shards")],
    per_shard: Annotated[int, typer.Option(min=1, help="images a shard")] = 2000,
    seed: Annotated[int, typer.Option(help="decides the order of the images")] = 0,
    max_side: Annotated[
        int | None, typer.Option(min=1, help="make larger images smaller (JPEG); default: bytes as they are")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="processes; default: one a core, at most eight")] = None,
    as_json: AsJson = False,
) -> None:
    """Pack images into shards, shuffled across classes, and index them. Started again, it goes on.

    SOURCE is an image folder (a sub-folder a class), a folder of archives (a .tar or .zip a class, as ImageNet-21k
    comes), or a .csv file with the columns path and label. Of a folder with train/ and val/ (or test/) that are such
    folders, each becomes a folder of shards in OUT, with the classes of train.
    """
    progress, made = default_progress(), {}
    for part, found in parts_of(source).items():
        shards = write_shards(
            found.images,
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
            "pictures": len(found.images),
            "classes": len(found.classes),
            "classes_without_pictures": found.empty,
            "left_out": found.left_out if as_json else told(found.left_out) or "nothing",
        }
    show(made.get("", made), as_json, str(out))
