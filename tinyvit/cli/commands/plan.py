"""`tinyvit plan`: what labelling will take."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tinyvit.cli.options import AsJson, Data, Overrides, RecipeName
from tinyvit.config import Label, load_recipe
from tinyvit.data.index import index_shards
from tinyvit.data.loader import default_workers
from tinyvit.data.location import resolve_data
from tinyvit.errors import UserError
from tinyvit.labelling import plan as planning
from tinyvit.labelling.plan import Pilot, Plan, Work
from tinyvit.models.teachers import load_teacher
from tinyvit.runtime.gpu_lock import reserve_gpu
from tinyvit.runtime.progress import default_progress


def plan(
    recipe: RecipeName,
    data: Data = None,
    images: Annotated[int | None, typer.Option(min=1, help="in place of the data's index")] = None,
    shards: Annotated[int | None, typer.Option(min=1, help="in place of the data's index")] = None,
    classes: Annotated[int | None, typer.Option(min=2, help="in place of the teacher's")] = None,
    views_per_s: Annotated[float | None, typer.Option(min=0.001, help="of one device, if it is known")] = None,
    devices: Annotated[int, typer.Option(min=1, help="GPUs that label at once")] = 1,
    measure: Annotated[bool, typer.Option("--measure", help="ask the teacher for a minute first")] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """What labelling will take: units, objects, bytes, hours, Prefect tasks, and the best length of a unit."""
    resolved, progress = resolve_data(load_recipe(recipe, overrides or []), data), default_progress()
    if (images is None) != (shards is None):
        raise UserError("give --images and --shards together, or neither")
    if measure and images:
        raise UserError("--measure needs the images: leave --images and --shards out")
    index = index_shards(resolved.data.train, progress) if images is None else None
    counts = index.counts if index else ()
    pilot = None
    if measure or classes is None:
        teacher = load_teacher(resolved.label.teacher, reserve_gpu(), resolved.label.classes, resolved.label.input_size)
        classes = teacher.num_classes
        if measure and index:
            pilot = planning.measure(resolved, teacher, index, default_workers(), 60, progress)
    work = planning.Work(images or sum(counts), shards or len(counts), classes)
    found = planning.plan(resolved.label, work, devices, views_per_s, pilot)
    if as_json:
        pilot_facts = asdict(pilot) if pilot else None
        typer.echo(json.dumps({**asdict(work), "devices": devices, **found.as_dict(), "pilot": pilot_facts}, indent=2))
        return
    Console().print(_table(resolved.label, work, devices, found, pilot))


def _table(label: Label, work: Work, devices: int, found: Plan, pilot: Pilot | None) -> Table:
    measured = "measured" if pilot else "estimated, right for logits that are spread out; --measure measures it"
    lines = [
        ("images, shards, classes", f"{work.images:,}, {work.shards:,}, {work.classes:,}"),
        ("rows", f"{found.rows:,} ({label.epochs} views of each image)"),
        ("units", f"{found.units:,} of about {found.views_per_unit:,} views ({label.epochs_per_unit} epochs each)"),
        ("objects in the store", f"{found.objects:,}"),
        ("bytes", f"{_size(found.bytes)}, {found.bytes / found.rows:.1f} a row ({measured})"),
        ("the same as flat records of the paper's release", _size(found.bytes_as_released)),
        (
            "requests, if the store is in a bucket",
            f"{found.bucket_writes:,} that write or list, {found.bucket_reads:,} that read",
        ),
    ]
    if found.device_hours is None or found.wall_hours is None:
        lines.append(("time", "give --views-per-s, or --measure it here"))
    else:
        speed = found.rows / found.device_hours / 3600
        lines += [
            ("views a second of a device", f"{speed:,.0f}" + (" (measured here)" if pilot else "")),
            ("device time", _time(found.device_hours)),
            (f"wall time on {devices} device{'s' * (devices > 1)}", _time(found.wall_hours)),
        ]
    lines += [
        ("Prefect tasks", f"{found.prefect_tasks:,} of {found.units_per_task} units (units_per_task)"),
        ("recommended label.epochs_per_unit", str(found.recommended_epochs_per_unit)),
    ]
    table = Table(title="Labelling", title_justify="left", show_header=False)
    for line in lines:
        table.add_row(*line)
    return table


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"


def _time(hours: float) -> str:
    if hours < 0.05:
        return f"{3600 * hours:,.0f} s"
    return f"{hours:,.1f} h" if hours < 100 else f"{hours / 24:,.1f} days"
