"""Options that several commands have, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]
Workers = Annotated[int | None, typer.Option(help="data processes; default: one a core beside this one, at most 8")]
Precision = Annotated[str, typer.Option(help="float32, bfloat16, float16; auto: bfloat16 on a GPU")]

RecipeName = Annotated[str, typer.Argument(help="name of a recipe, or a .yaml file")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="override of the recipe, such as label.top_k=10; repeatable")
]
Data = Annotated[
    str | None,
    typer.Option("--data", help="shards: a folder or URL, or one with train/ and val/ inside; default: the recipe's"),
]
StorePath = Annotated[str, typer.Argument(help="a logit store: a folder, or a URL such as s3://bucket/store")]
Shards = Annotated[str, typer.Argument(help="shards: a folder, a URL or a pattern such as URL/{000..127}.tar")]
OutFile = Annotated[Path | None, typer.Option("--out", help="also append the tables to this Markdown file")]
