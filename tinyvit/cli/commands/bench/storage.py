"""`tinyvit bench storage`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tinyvit.cli.benchmarks import benchmark, tell
from tinyvit.cli.options import AsJson, OutFile, Overrides
from tinyvit.config import load_recipe
from tinyvit.data.loader import default_workers
from tinyvit.data.location import ShardLocation, resolve_data
from tinyvit.models.teachers import load_teacher
from tinyvit.runtime.distributed import default_device
from tinyvit.runtime.progress import default_progress


def storage(
    recipe: Annotated[str, typer.Argument(help="whose teacher is asked, and about which views")] = "example",
    data: Annotated[str | None, typer.Option(help="shards: a folder or a URL; default: the recipe's")] = None,
    views: Annotated[int, typer.Option(min=1, help="how many")] = 6400,
    classes: Annotated[int | None, typer.Option(min=101, help="put a head of this size in the teacher's place")] = None,
    out: OutFile = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """The store in every encoding beside flat records, on real rows: bytes, divergence, rows a second, memory."""
    rows, bench = benchmark("sparse_rows"), benchmark("storage")

    resolved, progress = resolve_data(load_recipe(recipe, overrides or []), data), default_progress()
    teacher = load_teacher(resolved.label.teacher, default_device(), resolved.label.classes, resolved.label.input_size)
    asked = rows.stand_in(teacher, classes) if classes else teacher
    answers = rows.collect(resolved, asked, views, default_workers(), progress)
    about = {"teacher": teacher.name, "stand_in_head": bool(classes), "data": ShardLocation(resolved.data.train).name}
    found: dict[str, Any] = about | bench.measure(answers, progress)
    tell(found, bench, out, as_json)
