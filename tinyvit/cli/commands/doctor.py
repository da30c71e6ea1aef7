"""`tinyvit doctor`: is my set-up right?"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from tinyvit.cli.options import AsJson, Overrides
from tinyvit.config import load_recipe
from tinyvit.data.location import resolve_data
from tinyvit.doctor.examine import Case, examine
from tinyvit.doctor.finding import Finding
from tinyvit.errors import UserError
from tinyvit.runtime.progress import default_progress

# Sign, word and colour of a state: colour alone is not seen by everyone.
LOOKS = {"ok": ("+", "green"), "hint": ("!", "yellow"), "failed": ("x", "red"), "skipped": ("-", "dim")}
NAME = 15


def doctor(
    recipe: Annotated[
        str | None, typer.Argument(help="name of a recipe, or a .yaml file: the rest is from there")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="shards: a folder or URL, or one with train/ inside; with labels at best")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="its name, such as timm:NAME; default: the recipe's or the store's")
    ] = None,
    store: Annotated[str | None, typer.Option(help="a logit store, or where there will be one")] = None,
    classes: Annotated[
        Path | None, typer.Option(help="the teacher's class names, a line each, if timm has none")
    ] = None,
    images: Annotated[int, typer.Option("--pictures", min=16, help="show the teacher so many")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="which ones")] = 0,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Is my set-up right? Shards, class order, preparation, store, machine: each with its reason and remedy.

    Exit code 1 when something failed.
    """
    if recipe is None and data is None and teacher is None and store is None:
        raise UserError("there is nothing to examine; give a recipe, --data, --teacher or --store")
    resolved = resolve_data(load_recipe(recipe, overrides or []), data) if recipe else None
    case = Case(
        data=resolved.data.train if resolved else data,
        teacher=teacher,
        store=store,
        classes=classes,
        recipe=resolved,
        images=images,
        seed=seed,
    )
    console, found = Console(highlight=False), []
    for finding in examine(case, default_progress()):
        found.append(finding)
        if not as_json:
            _print(console, finding)
    failed = [finding.check for finding in found if finding.state == "failed"]
    if as_json:
        typer.echo(json.dumps({"failed": failed, "findings": [asdict(finding) for finding in found]}, indent=2))
    else:
        console.print(f"\nfailed: {', '.join(failed)}" if failed else "\nnothing failed")
    if failed:
        raise typer.Exit(1)


def _print(console: Console, finding: Finding) -> None:
    sign, colour = LOOKS[finding.state]
    console.print(Text.assemble((f"{sign} {finding.state:<8}", colour), (f"{finding.check:<{NAME}}", "bold")), end="")
    width = 10 + NAME
    lines = Text(finding.told).wrap(console, max(20, console.width - width))
    console.print(lines[0] if lines else "")
    for line in lines[1:]:
        console.print(Padding(line, (0, 0, 0, width)))
    if finding.remedy and finding.state != "ok":
        console.print(Padding(Text(f"-> {finding.remedy}", colour), (0, 0, 0, width)))
