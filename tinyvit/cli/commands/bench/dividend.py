"""`tinyvit bench dividend`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinyvit.cli.benchmarks import benchmark, tell
from tinyvit.cli.options import AsJson, OutFile, Overrides
from tinyvit.errors import UserError
from tinyvit.runtime.progress import default_progress


def dividend(
    folder: Annotated[
        Path, typer.Argument(help="data, teachers, stores and runs are kept here; goes on where stopped")
    ],
    data: Annotated[
        str | None, typer.Option(help="labelled shards, a folder with train and val; default: Fashion-MNIST, fetched")
    ] = None,
    labelled: Annotated[
        list[int] | None, typer.Option(help="images taken for labelled; repeatable; default: 250 to 5,000")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="how often labels are drawn and everything is done")] = 3,
    settings: Annotated[bool, typer.Option("--settings", help="try what matters, at the first --labelled")] = False,
    held_out: Annotated[
        int | None, typer.Option(min=1, help="to choose settings by: judge on so many training images, held out")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="trainings at once; default: one a core, one on a GPU")
    ] = None,
    overrides: Overrides = None,
    teaching: Annotated[
        list[str] | None, typer.Option("--teacher-set", help="override of few-labels-teacher; repeatable")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--picture", help="also draw accuracy against labels into this PNG")
    ] = None,
    out: OutFile = None,
    as_json: AsJson = False,
) -> None:
    """What a student of few labels gains by its teacher's stored logits on all images, at equal steps."""
    bench, found = benchmark("dividend.report"), benchmark("dividend.compare")

    if settings and plot:
        raise UserError("--picture draws accuracy against the number of labels; leave it out with --settings")
    plan = found.Plan(folder, tuple(labelled or found.COUNTS), seeds, tuple(overrides or ()), tuple(teaching or ()))
    lines = found.compare(plan, data, settings, held_out, jobs, default_progress())
    if plot:
        bench.draw(lines, plot)
    tell(lines, bench, out, as_json)
