"""`tinyvit store diff`."""

from __future__ import annotations

from typing import Any

import numpy as np
import typer

from logitstore import LogitStore
from logitstore import diff as diff_stores
from tinyvit.cli.options import AsJson, StorePath
from tinyvit.cli.output import show
from tinyvit.runtime.progress import default_progress


def diff(one: StorePath, two: StorePath, as_json: AsJson = False) -> None:
    """How two stores of the same shards differ; K and encoding may. Exit code 1 when they do."""
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
