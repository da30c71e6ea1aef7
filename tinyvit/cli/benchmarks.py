"""The benchmarks of a checkout, for the commands that run them."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

import tinyvit
from tinyvit.errors import UserError


def benchmark(name: str) -> Any:
    """A module of the benchmarks. UserError where there is no checkout."""
    checkout = Path(tinyvit.__file__).parents[1]
    if not (checkout / "benchmarks" / "results").is_dir():
        raise UserError("the benchmarks are not installed: run this in a checkout of the project, after `make setup`")
    if str(checkout) not in sys.path:
        sys.path.append(str(checkout))
    return import_module(f"benchmarks.{name}")


def tell(found: dict[str, Any], bench: Any, out: Path | None, as_json: bool) -> None:
    """Print what a benchmark measured, and append it to a results file."""
    if out:
        with out.open("a") as file:
            file.write(bench.markdown(found))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        Console().print(bench.table(found))
