"""`tinyvit bench`: how fast, how small, how true."""

from __future__ import annotations

import json
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import tinyvit
from tinyvit.cli.options import AsJson
from tinyvit.errors import UserError

app = typer.Typer(no_args_is_help=True, help="How fast, how small, how true.")

OutFile = Annotated[Path | None, typer.Option("--out", help="also append the tables to this Markdown file")]


@app.command()
def storage(
    recipe: Annotated[str, typer.Argument(help="whose teacher is asked, and about which views")] = "example",
    data: Annotated[str | None, typer.Option(help="shards: a folder or a URL; default: the recipe's")] = None,
    views: Annotated[int, typer.Option(min=1, help="how many")] = 6400,
    classes: Annotated[int | None, typer.Option(min=101, help="put a head of this size in the teacher's place")] = None,
    out: OutFile = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="override of the recipe; repeatable")] = None,
    as_json: AsJson = False,
) -> None:
    """The store in every encoding beside flat records, on real rows: bytes, divergence, rows a second, memory."""
    rows, bench = _benchmark("answers"), _benchmark("storage")
    from tinyvit.config import load_recipe
    from tinyvit.data.loader import default_workers
    from tinyvit.data.location import ShardLocation, resolve_data
    from tinyvit.models.teachers import load_teacher
    from tinyvit.runtime.distributed import default_device
    from tinyvit.runtime.progress import default_progress

    resolved, progress = resolve_data(load_recipe(recipe, overrides or []), data), default_progress()
    teacher = load_teacher(resolved.label.teacher, default_device(), resolved.label.classes, resolved.label.input_size)
    asked = rows.stand_in(teacher, classes) if classes else teacher
    answers = rows.collect(resolved, asked, views, default_workers(), progress)
    about = {"teacher": teacher.name, "stand_in_head": bool(classes), "data": ShardLocation(resolved.data.train).name}
    found: dict[str, Any] = about | bench.measure(answers, progress)
    _tell(found, bench, out, as_json)


@app.command()
def loader(
    out: OutFile = None,
    as_json: AsJson = False,
) -> None:
    """The data path beside timm's own: images a second on 2,000 photographs, with and without the join."""
    bench = _benchmark("loader")
    from tinyvit.config import Augment
    from tinyvit.runtime.progress import default_progress

    progress = default_progress()
    with tempfile.TemporaryDirectory() as folder:
        found = bench.measure(Path(folder), bench.prepare(Path(folder), progress), Augment(), progress)
    _tell(found, bench, out, as_json)


@app.command()
def train(
    recipe: Annotated[
        str, typer.Argument(help="whose student, teacher and first stage on a teacher are timed")
    ] = "example",
    data: Annotated[str | None, typer.Option(help="labelled shards in a folder; default: the recipe's")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="override of the recipe; repeatable")] = None,
    out: OutFile = None,
    as_json: AsJson = False,
) -> None:
    """Training beside a bare loop over timm's loader: on labels, on stored answers, with the live teacher."""
    bench = _benchmark("training")
    from tinyvit.config import load_recipe
    from tinyvit.data.location import resolve_data
    from tinyvit.runtime.progress import default_progress

    resolved = resolve_data(
        load_recipe(recipe, ["label.epochs=2", "label.epochs_per_unit=2", *(overrides or [])]), data
    )
    with tempfile.TemporaryDirectory() as folder:
        _tell(bench.measure(resolved, Path(folder), default_progress()), bench, out, as_json)


@app.command()
def dividend(
    folder: Annotated[
        Path, typer.Argument(help="data, teachers, stores and runs are kept here; goes on where stopped")
    ],
    data: Annotated[
        str | None, typer.Option(help="labelled shards, a folder with train and val; default: Fashion-MNIST, fetched")
    ] = None,
    labelled: Annotated[
        list[int] | None, typer.Option(help="pictures taken for labelled; repeatable; default: 250 to 5,000")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="how often labels are drawn and everything is done")] = 3,
    settings: Annotated[bool, typer.Option("--settings", help="try what matters, at the first --labelled")] = False,
    held_out: Annotated[
        int | None, typer.Option(min=1, help="to choose settings by: judge on so many training pictures, held out")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="trainings at once; default: one a core, one on a GPU")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="override of few-labels; repeatable")] = None,
    teaching: Annotated[
        list[str] | None, typer.Option("--teacher-set", help="override of few-labels-teacher; repeatable")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="also draw accuracy against labels into this PNG")] = None,
    out: OutFile = None,
    as_json: AsJson = False,
) -> None:
    """What a student of few labels gains by its teacher's stored answers on all pictures, at equal steps."""
    bench, found = _benchmark("dividend.report"), _benchmark("dividend.compare")
    from tinyvit.runtime.progress import default_progress

    if settings and picture:
        raise UserError("--picture draws accuracy against the number of labels; leave it out with --settings")
    plan = found.Plan(folder, tuple(labelled or found.COUNTS), seeds, tuple(overrides or ()), tuple(teaching or ()))
    lines = found.compare(plan, data, settings, held_out, jobs, default_progress())
    if picture:
        bench.draw(lines, picture)
    _tell(lines, bench, out, as_json)


@app.command()
def contraction(
    folder: Annotated[Path, typer.Argument(help="data, store and runs are kept here; goes on where stopped")],
    seeds: Annotated[int, typer.Option(min=1, help="how often everything is done")] = 3,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="override of contract-example")] = None,
    out: OutFile = None,
    as_json: AsJson = False,
) -> None:
    """What contraction finds, beside random search of the same budget and students by hand, all trained in full."""
    bench = _benchmark("contraction")
    from tinyvit.runtime.progress import default_progress

    _tell(bench.compare(folder, seeds, overrides or [], default_progress()), bench, out, as_json)


@app.command()
def online(
    folder: Annotated[Path, typer.Argument(help="where runs and stores go")],
    data: Annotated[Path, typer.Option(help="Fashion-MNIST as `tinyvit data fetch` leaves it")],
    teacher: Annotated[str, typer.Option(help="a teacher of its ten classes")],
    picture: Annotated[Path | None, typer.Option(help="also draw the losses into this PNG")] = None,
    out: OutFile = None,
    as_json: AsJson = False,
) -> None:
    """Training on stored answers beside training with the live teacher: the loss of each step."""
    bench = _benchmark("offline_online")
    from tinyvit.runtime.progress import default_progress

    found = bench.compare(folder, data, teacher, default_progress())
    if picture:
        bench.draw(found, picture)
    _tell(found, bench, out, as_json)


@app.command()
def endurance(
    minutes: Annotated[float, typer.Option(min=0.1, help="how long")] = 10,
    workers: Annotated[int, typer.Option(min=0, help="data processes")] = 4,
    as_json: AsJson = False,
) -> None:
    """Loading photographs, joined with a store, for minutes on end: the longest wait, and memory over time."""
    bench, loading = _benchmark("endurance"), _benchmark("loader")
    from tinyvit.runtime.progress import default_progress

    progress = default_progress()
    with tempfile.TemporaryDirectory() as folder:
        found = bench.endure(Path(folder), loading.prepare(Path(folder), progress), minutes, workers, progress)
    _tell(found, bench, None, as_json)


@app.command()
def scale(
    bucket: Annotated[str | None, typer.Option(help="also make the large store there, such as s3://BUCKET/x")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="override of the example; repeatable")] = None,
    out: OutFile = None,
    as_json: AsJson = False,
) -> None:
    """Labelling beside its bare teacher; a store of ImageNet-21k's size; what Prefect's tasks take."""
    bench = _benchmark("scale")
    from tinyvit.runtime.progress import default_progress

    with tempfile.TemporaryDirectory() as folder:
        found = bench.measure(Path(folder), bucket, overrides or [], default_progress())
    _tell(found, bench, out, as_json)


@app.command()
def report(out: OutFile = None, as_json: AsJson = False) -> None:
    """`tinyvit store report` on a million synthetic rows: time, memory, size of the page."""
    bench = _benchmark("report")
    from tinyvit.runtime.progress import default_progress

    with tempfile.TemporaryDirectory() as folder:
        found = bench.measure(Path(folder), default_progress())
    _tell(found, bench, out, as_json)


def _benchmark(name: str) -> Any:
    """A module of the benchmarks, which only a checkout has."""
    checkout = Path(tinyvit.__file__).parents[1]
    if not (checkout / "benchmarks" / "results").is_dir():
        raise UserError("the benchmarks are not installed: run this in a checkout of the project, after `make setup`")
    if str(checkout) not in sys.path:
        sys.path.append(str(checkout))
    return import_module(f"benchmarks.{name}")


def _tell(found: dict[str, Any], bench: Any, out: Path | None, as_json: bool) -> None:
    """Print what a benchmark measured, and append it to a results file."""
    if out:
        with out.open("a") as file:
            file.write(bench.markdown(found))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        Console().print(bench.table(found))
