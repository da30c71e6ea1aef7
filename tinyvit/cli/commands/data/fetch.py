"""`tinyvit data fetch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tinyvit.cli.options import AsJson
from tinyvit.cli.output import show
from tinyvit.datasets.digits import make_digits
from tinyvit.datasets.fetch import fetch_fashion_mnist, make_example
from tinyvit.datasets.scenes import make_scenes
from tinyvit.errors import UserError
from tinyvit.runtime.progress import default_progress


def fetch(
    name: Annotated[
        Literal["example", "fashion-mnist", "digits", "fashion-scenes"], typer.Argument(help="the data set")
    ],
    out: Annotated[Path, typer.Argument(help="the folder for train/ and val/")],
    source: Annotated[Path | None, typer.Option(help="a folder that has the original files already")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a data set: Fashion-MNIST's 70,000 images, the example's 2,500 of them or scikit-learn's 1,797 digits as
    shards, or scenes in COCO's format, rendered of Fashion-MNIST's objects on photographs. The example's recipes look
    for theirs in examples/fashion-mnist.
    """
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
