"""Options that several commands have, each written once."""

from __future__ import annotations

from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]
Workers = Annotated[int | None, typer.Option(help="data processes; default: one a core beside this one, at most 8")]
Precision = Annotated[str, typer.Option(help="float32, bfloat16, float16; auto: bfloat16 on a GPU")]
