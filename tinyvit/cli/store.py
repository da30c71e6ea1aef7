"""`tinyvit store`: look at what a teacher said, check it, copy it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from logitstore import Claims, LogitStore, Unit, copy_spec
from logitstore import copy as copy_store
from logitstore import diff as diff_stores
from logitstore import merge as merge_stores
from tinyvit.cli.options import AsJson
from tinyvit.cli.output import show
from tinyvit.cli.store_info import info
from tinyvit.cli.store_show import show_rows
from tinyvit.errors import UserError

if TYPE_CHECKING:
    from tinyvit.models.teachers import Teacher

app = typer.Typer(no_args_is_help=True, help="Look at a logit store, check it, copy it.")
app.command()(info)
app.command("show")(show_rows)

StorePath = Annotated[str, typer.Argument(help="a logit store: a folder, or a URL such as s3://bucket/store")]


@app.command()
def report(
    store: StorePath,
    data: Annotated[
        str | None, typer.Option(help="the shards: then there are pictures, and labels if they have them")
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="the page")] = Path("report.html"),
    rows: Annotated[int, typer.Option(min=1, help="look at so many rows, drawn at random")] = 50_000,
    seed: Annotated[int, typer.Option(min=0, help="which ones")] = 0,
    as_json: AsJson = False,
) -> None:
    """One page about what the teacher said: progress, figures, labels, pictures with their views. Opens offline."""
    from tinyvit.reports.store_page import write_store_page
    from tinyvit.runtime.progress import default_progress

    found = write_store_page(out, LogitStore.open(store), data, rows, seed, default_progress())
    show(found, as_json, store)


@app.command()
def verify(
    store: StorePath,
    data: Annotated[str | None, typer.Option(help="also check keys and counts of these shards")] = None,
    replay: Annotated[int, typer.Option(min=0, help="make this many random views again and ask the teacher")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="which views --replay takes")] = 0,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="un-commit faulty units, for label to do them anew; remove what killed runs left"
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read everything back: documents, checksums, ids, probabilities, seeds, keys. Exit code 1 for a fault."""
    from tinyvit.labelling.verify_data import data_faults, faulty_units
    from tinyvit.runtime.progress import default_progress

    if replay and data is None:
        raise UserError("--replay needs the images: give their shards with --data")
    opened, progress = LogitStore.open(store), default_progress()
    result: dict[str, Any] = {
        "units": 0,
        "missing": 0,
        "faulty": 0,
        "faults": opened.faults(),
        "uncommitted_now": 0,
        "leftovers_removed": 0,
        "views_replayed": 0,
    }
    # Without its index a store cannot even say which units it should have.
    if opened.has_index:
        units, missing = faulty_units(opened, progress), opened.missing()
        if data is not None:
            result["faults"] += data_faults(opened, data, progress)
        if replay and data is not None and not result["faults"]:
            from tinyvit.labelling.verify_answers import replay_faults

            sound = [unit for unit in opened.units() if unit not in units and unit not in missing]
            result["views_replayed"], found = replay_faults(
                opened, data, _teacher_of(opened), sound, replay, seed, progress
            )
            result["faults"] += found
        result["faults"] += [f"{opened.describe_unit(unit)}: {'; '.join(lines)}" for unit, lines in units.items()]
        if repair:
            for unit in units:
                opened.uncommit(unit)
            result["uncommitted_now"] = len(units)
            with Claims(opened) as claims:
                result["leftovers_removed"] = claims.sweep()
        result |= {"units": len(opened.units()), "missing": len(missing), "faulty": len(units)}
    show(result, as_json, store)
    if result["faults"] or result["missing"]:
        raise typer.Exit(1)


def _teacher_of(store: LogitStore) -> Teacher:
    from tinyvit.models.teachers import load_teacher
    from tinyvit.runtime.distributed import default_device

    return load_teacher(str(store.spec.teacher["name"]), default_device(), None, int(store.spec.teacher["input_size"]))


@app.command()
def diff(one: StorePath, two: StorePath, as_json: AsJson = False) -> None:
    """How two stores of the same shards differ; K and encoding may. Exit code 1 when they do."""
    from tinyvit.runtime.progress import default_progress

    stores = [LogitStore.open(location) for location in (one, two)]
    found = []
    epochs = min(store.spec.epochs for store in stores)
    with default_progress().task("compare", epochs * len(stores[0].table), "shard epochs") as bar:
        for difference in diff_stores(*stores):
            found.append(difference)
            bar.advance(1)
    variation = np.concatenate([d.variation for d in found]) if found else np.zeros(0)
    rows = int(sum(d.rows for d in found))
    result: dict[str, Any] = {
        "specification": stores[0].spec.differences(stores[1].spec),
        "views_compared": rows,
        "views_equal": sum(d.equal for d in found),
        "views_of_another_seed": sum(d.other_seed for d in found),
        "views_with_another_best_class": sum(d.other_best for d in found),
        "views_with_one_answer": sum(d.other_validity for d in found),
        "total_variation_mean": float(variation.mean()) if rows else 0.0,
        "total_variation_max": float(variation.max()) if rows else 0.0,
        "units_missing": [len(store.missing()) for store in stores],
    }
    show(result, as_json, f"{one} against {two}")
    if result["specification"] or result["views_equal"] != rows or any(result["units_missing"]):
        raise typer.Exit(1)


@app.command()
def copy(
    source: StorePath,
    target: Annotated[str, typer.Argument(help="where the copy is made or completed: a folder or a URL")],
    epochs: Annotated[str | None, typer.Option(help="only these, such as 0:30; the copy counts from 0")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="keep fewer classes")] = None,
    encoding: Annotated[str | None, typer.Option(help="compact, fine or exact")] = None,
    as_json: AsJson = False,
) -> None:
    """Copy a store, or the part of it that is needed. Does only what is missing."""
    opened = LogitStore.open(source)
    chosen = _range(epochs) if epochs else None
    units = copy_spec(opened.spec, chosen, top_k, encoding).blocks * len(opened.table)
    _transfer(copy_store(opened, target, chosen, top_k, encoding), target, units, as_json)


@app.command()
def merge(
    target: Annotated[str, typer.Argument(help="the store that is made or completed")],
    sources: Annotated[list[str], typer.Argument(help="stores of the same specification")],
    as_json: AsJson = False,
) -> None:
    """One store out of the units that several machines labelled. Does only what is missing."""
    opened = [LogitStore.open(source) for source in sources]
    _transfer(merge_stores(opened, target), target, len(opened[0].units()), as_json)


def _transfer(units: Iterator[Unit], target: str, most: int, as_json: bool) -> None:
    from tinyvit.runtime.progress import default_progress

    count = 0
    with default_progress().task("copy", most, "units") as bar:
        for _ in units:
            count += 1
            bar.advance(1)
    made = LogitStore.open(target)
    result = {
        "store": target,
        "units": len(made.units()),
        "units_written_now": count,
        "missing": len(made.missing()),
        "sealed": made.sealed or "no",
    }
    show(result, as_json, target)


def _range(text: str) -> range:
    first, _, last = text.partition(":")
    try:
        return range(int(first), int(last) if last else int(first) + 1)
    except ValueError as fault:
        raise UserError(f"--epochs {text} is not understood; write one epoch as 3, or the first ten as 0:10") from fault
