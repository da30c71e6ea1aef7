"""`tinyvit bench`: how fast, how small, how true."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tinyvit.errors import UserError

app = typer.Typer(no_args_is_help=True, help="How fast, how small, how true.")

NOT_INSTALLED = "the benchmarks are not installed: run this in a checkout of the project, after `make setup`"


@app.command()
def storage(
    recipe: Annotated[str, typer.Argument(help="whose teacher is asked, and about which views")] = "example",
    data: Annotated[str | None, typer.Option(help="shards: a folder or a URL; default: the recipe's")] = None,
    views: Annotated[int, typer.Option(min=1, help="how many")] = 6400,
    classes: Annotated[int | None, typer.Option(min=101, help="put a head of this size in the teacher's place")] = None,
    out: Annotated[Path | None, typer.Option(help="also append the table to this Markdown file")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="override of the recipe; repeatable")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON document on stdout")] = False,
) -> None:
    """The store in every encoding beside flat records, on real rows: bytes, divergence, rows a second, memory."""
    try:
        from benchmarks.answers import collect, stand_in
        from benchmarks.storage import markdown, measure, table
    except ImportError:
        raise UserError(NOT_INSTALLED) from None
    from tinyvit.config import load_recipe
    from tinyvit.data.loader import default_workers
    from tinyvit.data.place import Place
    from tinyvit.pixels import default_device
    from tinyvit.progress import default_progress
    from tinyvit.teachers import load_teacher

    resolved, progress = load_recipe(recipe, overrides or []).with_data(data), default_progress()
    teacher = load_teacher(resolved.label.teacher, default_device(), resolved.label.classes)
    asked = stand_in(teacher, classes) if classes else teacher
    answers = collect(resolved, asked, views, default_workers(), progress)
    about = {"teacher": teacher.name, "stand_in_head": bool(classes), "data": Place(resolved.data.train).name}
    found: dict[str, Any] = about | measure(answers, progress)
    if out:
        with out.open("a") as file:
            file.write(markdown(found))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        Console().print(table(found))


@app.command()
def loader(
    out: Annotated[Path | None, typer.Option(help="also append the tables to this Markdown file")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON document on stdout")] = False,
) -> None:
    """The data path beside timm's own: images a second on 2,000 photographs, with and without the join."""
    try:
        from benchmarks.loader import markdown, measure, prepare, table
    except ImportError:
        raise UserError(NOT_INSTALLED) from None
    from tinyvit.config import Augment
    from tinyvit.progress import default_progress

    progress = default_progress()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), prepare(Path(folder), progress), Augment(), progress)
    if out:
        with out.open("a") as file:
            file.write(markdown(found))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        Console().print(table(found))


@app.command()
def endurance(
    minutes: Annotated[float, typer.Option(min=0.1, help="how long")] = 10,
    workers: Annotated[int, typer.Option(min=0, help="data processes")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON document on stdout")] = False,
) -> None:
    """Loading photographs, joined with a store, for minutes on end: the longest wait, and memory over time."""
    try:
        from benchmarks.endurance import endure, table
        from benchmarks.loader import prepare
    except ImportError:
        raise UserError(NOT_INSTALLED) from None
    from tinyvit.progress import default_progress

    progress = default_progress()
    with tempfile.TemporaryDirectory() as folder:
        found = endure(Path(folder), prepare(Path(folder), progress), minutes, workers, progress)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        Console().print(table(found))
