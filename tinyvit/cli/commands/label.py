"""`tinyvit label`."""

from __future__ import annotations

from typing import Annotated

import typer

from tinyvit.cli.options import AsJson, Data, Overrides, RecipeName, Workers
from tinyvit.cli.output import show
from tinyvit.config import load_recipe
from tinyvit.data.loader import default_workers
from tinyvit.data.location import resolve_data
from tinyvit.labelling.label import Slice, label_store
from tinyvit.models.teachers import load_teacher
from tinyvit.runtime.gpu_lock import reserve_gpu
from tinyvit.runtime.progress import default_progress


def label(
    recipe: RecipeName,
    store: Annotated[str, typer.Option(help="where the logit store is, or will be: a folder or a URL")],
    data: Data = None,
    overrides: Overrides = None,
    part: Annotated[
        str | None, typer.Option("--slice", metavar="I/N", help="only the I-th of N slices of the units, such as 3/8")
    ] = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Stage 1: ask the teacher about every view and keep its best classes. Does only what is missing.

    Start it several times on one store, on as many machines as you like: they share the work.
    """
    resolved = resolve_data(load_recipe(recipe, overrides or []), data)
    progress = default_progress()
    teacher = load_teacher(resolved.label.teacher, reserve_gpu(), resolved.label.classes, resolved.label.input_size)
    count = default_workers() if workers is None else workers
    chosen = Slice.parse(part) if part else None
    opened, reports = label_store(resolved, store, teacher, count, progress, chosen)
    seconds, views = sum(r.seconds for r in reports), sum(r.views for r in reports)
    result = {
        "store": store,
        "units": len(opened.units()),
        "units_labelled_now": len(reports),
        "units_missing": 0 if opened.sealed else len(opened.missing()),
        "views_labelled_now": views,
        "views_without_answer": sum(r.invalid for r in reports),
        "views_per_s": views / seconds if seconds else 0.0,
        "sealed": opened.sealed,
    }
    show(result, as_json, "labelled")
