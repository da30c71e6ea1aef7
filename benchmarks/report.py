"""`tinyvit bench report`: what `tinyvit store report` takes on a store of a million synthetic rows.

Results of a run on this machine: benchmarks/results/report_*.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.full_scale import CLASSES, TOP_K, synthetic_rows
from benchmarks.tables import file_table, terminal
from logitstore import LogitStore, ShardTable, StoreSpec
from tinyvit.reports.store_page import write_store_page
from tinyvit.runtime.memory import peak_mib
from tinyvit.runtime.progress import Progress

EPOCHS, SHARDS, SAMPLES = 10, 20, 5000
# What the command looks at when it is not told.
DRAWN = 50_000


def make(folder: Path, samples: int, progress: Progress) -> LogitStore:
    """A sealed store of so many samples a shard, with the classes and the K of ImageNet-21k's."""
    rng = np.random.default_rng(0)
    digests = np.split(np.arange(SHARDS * samples, dtype=np.uint64), SHARDS)
    names = tuple(f"synthetic-{n:03d}.tar" for n in range(SHARDS))
    table = ShardTable(names, (samples,) * SHARDS, ("0" * 64,) * SHARDS, tuple(digests))
    teacher = {"name": "synthetic", "weights_sha256": "none", "input_size": 224}
    spec = StoreSpec(
        data="synthetic", epochs=EPOCHS, epochs_per_unit=EPOCHS, top_k=TOP_K, num_classes=CLASSES,
        encoding="compact", run_seed=0, teacher=teacher, augment={}, libraries={}, created="",
    )  # fmt: skip
    store = LogitStore.create(folder, spec, table, keys=lambda shard: [f"{shard}-{slot}" for slot in range(samples)])
    with progress.task("make", SHARDS, "units") as bar:
        for unit in store.units():
            store.write_unit(unit, synthetic_rows(spec, samples, rng))
            bar.advance(1)
    store.seal()
    return store


def measure(folder: Path, progress: Progress, samples: int = SAMPLES) -> dict[str, Any]:
    """Seconds, highest MiB and bytes of the page about such a store."""
    store = make(folder / "store", samples, progress)
    began = time.perf_counter()
    found = write_store_page(folder / "report.html", store, None, DRAWN, 0, progress)
    return {
        "rows": found["rows"],
        "rows_drawn": found["rows_drawn"],
        "seconds": time.perf_counter() - began,
        "mib": peak_mib(),
        "page_bytes": found["page_bytes"],
    }


def table(found: dict[str, Any]) -> Table:
    """For a terminal."""
    return terminal(("what", "how much"), _rows(found), _about())


def markdown(found: dict[str, Any]) -> str:
    """For a results file."""
    return f"\n{_about()}\n" + file_table(("what", "how much"), _rows(found))


def _about() -> str:
    return f"The page about a store of synthetic rows, {TOP_K} of {CLASSES:,} classes each; without images."


def _rows(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "rows in the store", f"{found['rows']:,}"
    yield "rows drawn", f"{found['rows_drawn']:,}"
    yield "time", f"{found['seconds']:.1f} s"
    yield "peak memory, making the store included", f"{found['mib']:.0f} MiB"
    yield "page", f"{found['page_bytes'] / 2**20:.2f} MiB"
