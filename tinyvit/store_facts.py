"""What can be said of a store as a whole: provenance, progress, bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

from storage import LogitStore, Rows
from tinyvit.config import Augment


def describe(store: LogitStore) -> dict[str, Any]:
    """Provenance, progress and bytes of a store."""
    spec, table = store.spec, store.table
    units, missing = store.units(), store.missing()
    absent = set(missing)
    rows = sum(table.samples[u.shard] * len(spec.epochs_of(u)) for u in units if u not in absent)
    # A web server does not list what it has.
    sizes = {} if store.objects.readable_only else store.stored_bytes()
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
        "run_seed": spec.run_seed,
        "libraries": dict(spec.libraries),
        "created": spec.created,
        "bytes": sum(sizes.values()),
        "bytes_per_row": sum(sizes.values()) / rows if rows else 0.0,
        "bytes_of": dict(sorted(sizes.items())),
    }


def stored_augment(store: LogitStore) -> Augment:
    """The augmentation that made the views of a store."""
    return Augment.model_validate(dict(store.spec.augment))


def best_classes(rows: Rows, slot: int) -> list[tuple[int, float]]:
    """The kept classes of a view as (class id, probability), most probable first."""
    order = np.argsort(-rows.probability[slot], kind="stable")
    kept = order[rows.probability[slot][order] > 0]
    return [(int(c), float(p)) for c, p in zip(rows.class_id[slot][kept], rows.probability[slot][kept], strict=True)]
