"""The logit store against flat records, on the same rows in one run: bytes a row, writing, reading in order.

    python benchmarks/store_against_flat_file.py runs/example/store

The flat file follows the record that the TinyViT paper's release is described with: int32 seed, K int16 class ids,
K float16 probabilities, and a text file of keys beside it. It has no checksums and is not synced to disk; the store
has and is. Both are read from the page cache. Median of five runs.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from storage import LogitStore, UnitRows

REPEATS = 5


def seconds(action: Callable[[], object]) -> float:
    """Median time of an action."""
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def units_of(store: LogitStore) -> list[UnitRows]:
    """Every unit of a store, decoded."""
    made = []
    for unit in store.units():
        rows = [store.read(epoch, unit.shard) for epoch in store.spec.epochs_of(unit)]
        digests = [store.view_digests(epoch, unit.shard) for epoch in store.spec.epochs_of(unit)]
        parts = {name: np.stack([getattr(r, name) for r in rows]) for name in vars(rows[0])}
        made.append(UnitRows(**parts, view_digest=np.stack(digests)))
    return made


def flat_record(top_k: int) -> np.dtype[np.void]:
    """One record of the flat file."""
    return np.dtype([("seed", "<i4"), ("id", "<i2", (top_k,)), ("p", "<f2", (top_k,))])


def write_flat(path: Path, units: list[UnitRows], probabilities: list[np.ndarray]) -> None:
    """Rows one after another, keys in a text file."""
    with path.open("wb") as values, path.with_suffix(".keys").open("w") as keys:
        for number, (rows, p) in enumerate(zip(units, probabilities, strict=True)):
            records = np.zeros(rows.seed.size, flat_record(p.shape[-1]))
            records["seed"] = rows.seed.reshape(-1).view(np.int32)
            records["id"] = rows.class_id.reshape(len(records), -1)
            records["p"] = p.reshape(len(records), -1)
            values.write(records.tobytes())
            keys.write("".join(f"{number:06d}-{i:06d}\n" for i in range(len(records))))


def write_store(path: Path, like: LogitStore, units: list[UnitRows]) -> LogitStore:
    """The same rows into a new store."""
    made = LogitStore.create(path, like.spec, like.table, like.class_names)
    for unit, rows in zip(like.units(), units, strict=True):
        made.write_unit(unit, rows)
    return made


def read_store(path: Path) -> float:
    """Every row in order, to probabilities; returns a sum so that nothing is left undone."""
    store = LogitStore.open(path)
    shards = range(len(store.table))
    return sum(
        float(store.read(epoch, shard).probabilities().sum()) for epoch in range(store.spec.epochs) for shard in shards
    )


def read_flat(path: Path, top_k: int) -> float:
    """Every row in order, to float32 probabilities."""
    records = np.fromfile(path, flat_record(top_k))
    keys = path.with_suffix(".keys").read_text().splitlines()
    assert len(keys) == len(records)
    return float(records["p"].astype(np.float32).sum())


def main() -> None:
    """Measure and print."""
    source = LogitStore.open(sys.argv[1])
    units = units_of(source)
    probabilities = [np.exp(u.log_ratio) / np.exp(u.log_ratio).sum(-1, keepdims=True) for u in units]
    rows, top_k = sum(u.seed.size for u in units), source.spec.top_k
    with tempfile.TemporaryDirectory() as temporary:
        flat, numbers = Path(temporary) / "flat.bin", iter(range(100))
        flat_write = seconds(lambda: write_flat(flat, units, probabilities))
        store_write = seconds(lambda: write_store(Path(temporary) / f"store{next(numbers)}", source, units))
        stored = LogitStore.open(Path(temporary) / "store0")
        flat_read, store_read = seconds(lambda: read_flat(flat, top_k)), seconds(lambda: read_store(stored.path))
        flat_bytes = (flat.stat().st_size + flat.with_suffix(".keys").stat().st_size) / rows
        store_bytes = sum(stored.stored_bytes().values()) / rows
    table = Table(title=f"{rows:,} rows, K={top_k}, {len(units)} units", title_justify="left")
    for column in ("", "flat file", "store", "store / flat file"):
        table.add_column(column, justify="right" if column else "left")
    for name, one, two in (
        ("bytes a row", flat_bytes, store_bytes),
        ("rows written a second", rows / flat_write, rows / store_write),
        ("rows read in order a second", rows / flat_read, rows / store_read),
    ):
        table.add_row(name, f"{one:,.1f}", f"{two:,.1f}", f"{two / one:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
