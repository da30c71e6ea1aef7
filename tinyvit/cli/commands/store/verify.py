"""`tinyvit store verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from logitstore import Claims, LogitStore
from tinyvit.cli.options import AsJson, StorePath
from tinyvit.cli.output import show
from tinyvit.errors import UserError
from tinyvit.labelling.verify_data import data_faults, faulty_units
from tinyvit.runtime.progress import default_progress

if TYPE_CHECKING:
    from tinyvit.models.teachers import Teacher


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
            from tinyvit.labelling.verify_logits import replay_faults

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
    # Only --replay waits for torch.
    from tinyvit.models.teachers import load_teacher
    from tinyvit.runtime.distributed import default_device

    return load_teacher(str(store.spec.teacher["name"]), default_device(), None, int(store.spec.teacher["input_size"]))
