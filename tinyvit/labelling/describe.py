"""What can be said of a store as a whole: provenance, progress, bytes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from logitstore import LogitStore, Rows, Unit
from tinyvit.config import Augment, Decode
from tinyvit.data.join import key_digest
from tinyvit.errors import UserError

# Of a store with more units, the bytes are reckoned from so many.
WEIGHED_UNITS = 256


def describe(store: LogitStore) -> dict[str, Any]:
    """Provenance, progress and bytes of a store."""
    spec, table = store.spec, store.table
    units, missing = store.units(), store.missing()
    absent = set(missing)
    present = [unit for unit in units if unit not in absent]
    rows = sum(store.views(unit) for unit in present)
    weighed = present if len(present) <= WEIGHED_UNITS else random.Random(0).sample(present, WEIGHED_UNITS)
    # A web server does not list what it has.
    sizes = {} if store.objects.readable_only else _bytes(store, weighed, rows)
    return {
        "data": spec.data,
        "shards": len(table),
        "images": sum(table.samples),
        "epochs": spec.epochs,
        "epochs_per_unit": spec.epochs_per_unit,
        "units": len(units),
        "units_missing": len(missing),
        "sealed": store.sealed or "no",
        "rows": rows,
        "top_k": spec.top_k,
        "classes": spec.num_classes,
        "selection": spec.selection if spec.mass is None else f"mass {spec.mass}",
        "encoding": spec.encoding,
        "teacher": dict(spec.teacher),
        "augment": dict(spec.augment),
        "decode": dict(spec.decode),
        "run_seed": spec.run_seed,
        "libraries": dict(spec.libraries),
        "created": spec.created,
        "rows_per_s_when_written": _rate(store, weighed, rows),
        "progress": list(_progress(store, absent)),
        "bytes": sum(sizes.values()),
        "bytes_per_row": sum(sizes.values()) / rows if rows else 0.0,
        "bytes_of": dict(sorted(sizes.items())),
        "bytes_from_units": len(weighed),
    }


def _bytes(store: LogitStore, weighed: list[Unit], rows: int) -> dict[str, int]:
    """Bytes by array of a store with so many rows, of which these units were weighed."""
    sizes = store.stored_bytes(weighed)
    share = rows / max(1, sum(store.views(unit) for unit in weighed))
    in_units = {*store.arrays, "committed"}
    return {name: round(size * share) if name in in_units else size for name, size in sizes.items()}


def _rate(store: LogitStore, weighed: list[Unit], rows: int) -> float | None:
    """Rows a second between the first and the last commit of these units; None for a single one."""
    times = [] if store.objects.readable_only else store.commit_times(weighed)
    span = max(times, default=0.0) - min(times, default=0.0)
    # The first unit's rows were made before its commit.
    return rows * (1 - 1 / len(times)) / span if span > 0 else None


def _progress(store: LogitStore, absent: set[Unit]) -> Iterator[dict[str, Any]]:
    """Of each block of epochs, how many units there are to be and how many are there."""
    shards = len(store.samples)
    for block in range(store.spec.blocks):
        epochs = store.spec.epochs_of(Unit(block, 0))
        missing = sum(Unit(block, shard) in absent for shard in range(shards))
        yield {"epochs": f"{epochs.start}-{epochs.stop - 1}", "units": shards, "units_there": shards - missing}


def stored_augment(store: LogitStore) -> Augment:
    """The augmentation that made the views of a store."""
    return Augment.model_validate(dict(store.spec.augment))


def stored_decode(store: LogitStore) -> Decode:
    """How the images of a store were read; as usual where it does not say."""
    return Decode(**{name: value for name, value in store.spec.decode.items() if name in Decode.model_fields})


def best_classes(rows: Rows, slot: int) -> list[tuple[int, float]]:
    """The kept classes of a view as (class id, probability), most probable first."""
    order = np.argsort(-rows.probability[slot], kind="stable")
    kept = order[rows.probability[slot][order] > 0]
    return [(int(c), float(p)) for c, p in zip(rows.class_id[slot][kept], rows.probability[slot][kept], strict=True)]


def sample_of_key(store: LogitStore, key: str) -> tuple[int, int]:
    """The shard and the slot of a sample. UserError where the store has none of this key."""
    digest = key_digest(key)
    for shard, digests in enumerate(store.table.key_digest):
        if len(found := np.flatnonzero(digests == digest)):
            return shard, int(found[0])
    raise UserError(f"{store.location} has no sample {key!r}; keys are those of the shards, without suffix")
