"""`tinyvit bench storage`: the store in every encoding beside flat records, on the same real rows in one run.

Bytes count everything that a unit consists of, checksums and commits included. Divergence is that of the
reconstructed target from the exact one, kept classes plus residual. Timings are medians on one core, files in the
page cache; the store syncs every object to the disk and reads it back, the flat file does neither.
"""

from __future__ import annotations

import lzma
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from benchmarks import flat_file
from benchmarks.confirm import confirm
from benchmarks.sparse_rows import SparseRows, Views
from logitstore import LogitStore, ShardTable, StoreSpec, Unit, UnitRows
from tinyvit.runtime.progress import Progress

REPEATS = 15
# A unit of the size that a shard of ImageNet-21k in 2,048 shards has.
UNIT_ROWS = 6400
# Shards so small that what is fixed of a read is seen, and so large that it is not.
SHARD_ROWS = (250, 2000)
RANDOM_READS = 200
UNIT_ARRAYS = ("class_step", "value", "residual", "seed", "valid", "view_digest", "committed")
TOP_K = (100, 10)
CASES = [(encoding, top_k) for top_k in TOP_K for encoding in ("compact", "fine", "exact")]
COLUMNS = {
    "kept": "kept",
    "bytes_per_row": "bytes a row",
    "kl_mean": "KL mean",
    "kl_max": "KL max",
    "kl_teacher": "KL to teacher",
    "read_rows_per_s": "read k rows/s",
    "write_rows_per_s": "write k rows/s",
    "random_reads_per_s": "random reads/s",
    "peak_mib": "memory MiB",
}
IN_TERMINAL = ("kept", "bytes_per_row", "kl_mean", "kl_max", "read_rows_per_s", "write_rows_per_s")


def measure(views: Views, progress: Progress) -> dict[str, Any]:
    """Every encoding, K and selection, and the baseline, on these rows."""
    found: dict[str, Any] = {"rows": len(views.seed), "classes": views.num_classes, "encodings": {}, "baseline": {}}
    cases = len(TOP_K) + len(CASES) + 2
    with tempfile.TemporaryDirectory() as folder, one_core(), progress.task("measure", cases, "cases") as bar:
        for top_k in TOP_K:
            found["baseline"][str(top_k)] = _baseline(Path(folder), views, views.cut[f"top {top_k}"])
            bar.advance(1)
        for encoding, top_k in CASES:
            case = _store(Path(folder), views, views.cut[f"top {top_k}"], encoding, "top_k")
            found["encodings"].setdefault(encoding, {})[str(top_k)] = case
            bar.advance(1)
        found["selections"] = {
            "mass 0.99": _store(Path(folder), views, views.cut["mass"], "compact", "mass"),
            "sampled 50": _store(Path(folder), views, views.cut["sampled"], "counts", "sampled"),
        }
        bar.advance(1)
        answers = views.cut[f"top {TOP_K[0]}"]
        found["shards"] = {str(rows): _by_shard(Path(folder), views, answers, rows) for rows in SHARD_ROWS}
        bar.advance(1)
    return found


def _store(folder: Path, views: Views, answers: SparseRows, encoding: str, selection: str) -> dict[str, Any]:
    path = folder / f"{encoding}-{selection}-{answers.class_id.shape[1]}"
    store, units = _empty_store(path, views, answers, encoding, selection)
    count = len(views.seed)

    def write_all() -> None:
        for unit, rows in units:
            store.write_unit(unit, rows)

    write = seconds(write_all)
    shards = range(len(units))
    read = seconds(lambda: [store.read(0, shard) for shard in shards])
    rng = np.random.default_rng(0)
    places = rng.integers(count, size=RANDOM_READS)

    def at_random() -> None:
        for place in places:
            rows = store.read(0, int(place) // UNIT_ROWS)
            rows.probability[int(place) % UNIT_ROWS].sum()

    random = seconds(at_random, 1)
    off = np.concatenate([_divergence(store, shard, answers) for shard in shards])
    sizes = store.stored_bytes(store.units())
    return {
        "kept": float((answers.probability > 0).sum(axis=1).mean()),
        "bytes_per_row": sum(sizes.get(name, 0) for name in UNIT_ARRAYS) / count,
        "bytes_per_row_with_index_and_documents": sum(sizes.values()) / count,
        "kl_mean": float(off.mean()),
        "kl_max": float(off.max()),
        "kl_teacher": _finite(float((off + answers.spread).mean())),
        "read_rows_per_s": count / read,
        "write_rows_per_s": count / write,
        "random_reads_per_s": RANDOM_READS / random,
        "peak_mib": _peak_of_reading(f"""
from logitstore import LogitStore
mark()
store = LogitStore.open({str(path)!r})
for shard in range({len(units)}): store.read(0, shard)
"""),
    }


def _by_shard(folder: Path, views: Views, answers: SparseRows, rows: int) -> dict[str, Any]:
    """How fast shards of so many rows are read, in turn with the same rows of a flat file."""
    store, units = _empty_store(folder / f"shards-{rows}", views, answers, "compact", "top_k", rows)
    for unit, unit_rows in units:
        store.write_unit(unit, unit_rows)
    path = folder / "flat.bin"
    flat_file.write(path, views.keys, views.seed, answers.class_id, answers.probability)
    file = flat_file.FlatFile(path, answers.class_id.shape[1])
    keys = file.keys()
    pairs = [
        (
            seconds(lambda: [store.read(0, shard) for shard in range(len(units))], 1),
            seconds(lambda: [file.read(key) for key in keys], 1),
        )
        for _ in range(REPEATS)
    ]
    none: dict[str, Any] = dict.fromkeys(COLUMNS)
    speeds = [len(keys) / statistics.median(times) for times in zip(*pairs, strict=True)]
    return {name: none | {"read_rows_per_s": speed} for name, speed in zip(("store", "flat"), speeds, strict=True)}


def _empty_store(
    path: Path, views: Views, answers: SparseRows, encoding: str, selection: str, unit_rows: int = UNIT_ROWS
) -> tuple[LogitStore, list[tuple[Unit, UnitRows]]]:
    count = len(views.seed)
    parts = [slice(first, min(first + unit_rows, count)) for first in range(0, count, unit_rows)]
    spec = StoreSpec(
        data="bench", epochs=1, epochs_per_unit=1, top_k=answers.class_id.shape[1], num_classes=views.num_classes,
        encoding=encoding, selection=selection, mass=0.99 if selection == "mass" else None, run_seed=0, teacher={},
        augment={}, libraries={}, created="",
    )  # fmt: skip
    table = ShardTable(
        name=tuple(f"{number:06d}.tar" for number in range(len(parts))),
        samples=tuple(part.stop - part.start for part in parts),
        sha256=("",) * len(parts),
        key_digest=tuple(np.arange(part.start, part.stop, dtype=np.uint64) for part in parts),
    )
    rows = [
        UnitRows(
            class_id=answers.class_id[None, part].astype(np.int32),
            probability=answers.probability[None, part].astype(np.float32),
            residual=answers.residual[None, part].astype(np.float32),
            seed=views.seed[None, part],
            valid=np.ones((1, part.stop - part.start), bool),
            view_digest=np.zeros((1, spec.probes), np.uint32),
        )
        for part in parts
    ]
    store = LogitStore.create(path, spec, table)
    return store, [(Unit(0, shard), unit) for shard, unit in enumerate(rows)]


def _divergence(store: LogitStore, shard: int, answers: SparseRows) -> NDArray[np.float64]:
    """[S] divergence of what a unit gives back from what was put in."""
    part = slice(shard * UNIT_ROWS, shard * UNIT_ROWS + store.table.samples[shard])
    rows = store.read(0, shard)
    ids, p = _by_class(answers.class_id[part], answers.probability[part])
    read_ids, q = _by_class(rows.class_id, rows.probability)
    confirm(np.array_equal(ids, read_ids), "other classes came back than were stored")
    return divergence(p, q, answers.residual[part], rows.residual)


def _by_class(class_id: NDArray[np.integer], p: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """Entries in the order of their class, absent ones last and without a class."""
    ids = np.where(p > 0, class_id.astype(np.int64), np.iinfo(np.int64).max)
    order = np.argsort(ids, axis=1, kind="stable")
    return np.take_along_axis(ids, order, 1), np.take_along_axis(p, order, 1)


def divergence(
    p: NDArray[np.floating], q: NDArray[np.floating], residual: NDArray[np.floating], read: NDArray[np.floating]
) -> NDArray[np.float64]:
    """[N] Kullback-Leibler divergence in nats of (q, read) from (p, residual), the former scaled to sum to one."""
    one = np.concatenate([p, residual[:, None]], axis=1).astype(np.float64)
    two = np.concatenate([q, read[:, None]], axis=1).astype(np.float64)
    two /= two.sum(axis=1, keepdims=True)
    one /= one.sum(axis=1, keepdims=True)
    there = one > 0
    ratio = np.divide(one, two, out=np.ones_like(one), where=there)
    found: NDArray[np.float64] = (one * np.log(ratio)).sum(axis=1)
    return found


def _baseline(folder: Path, views: Views, answers: SparseRows) -> dict[str, Any]:
    top_k, count = answers.class_id.shape[1], len(views.seed)
    path = folder / f"flat-{top_k}.bin"
    write = seconds(lambda: flat_file.write(path, views.keys, views.seed, answers.class_id, answers.probability))
    file = flat_file.FlatFile(path, top_k)
    keys = file.keys()
    read = seconds(lambda: [file.read(key) for key in keys])
    rng = np.random.default_rng(0)
    chosen = [keys[i] for i in rng.integers(count, size=RANDOM_READS * 50)]
    random = seconds(lambda: [file.read(key) for key in chosen], 1)
    p = np.stack([file.read(key)[2] for key in keys]).astype(np.float64)
    left = np.maximum(1 - p.sum(axis=1), flat_file.NOTHING)
    found = divergence(answers.probability, np.maximum(p, flat_file.NOTHING), answers.residual, left)
    return {
        "kept": float(top_k),
        "bytes_per_row": flat_file.total_bytes(path) / count,
        "bytes_per_row_xz": len(lzma.compress(path.read_bytes(), preset=9)) / count,
        "kl_mean": float(found.mean()),
        "kl_max": float(found.max()),
        "kl_teacher": _finite(float((found + answers.spread).mean())),
        "read_rows_per_s": count / read,
        "write_rows_per_s": count / write,
        "random_reads_per_s": len(chosen) / random,
        "peak_mib": _peak_of_reading(f"""
from pathlib import Path
from benchmarks.flat_file import FlatFile
mark()
file = FlatFile(Path({str(path)!r}), {top_k})
for key in file.keys(): file.read(key)
"""),
        "negative_residuals": float((1 - p.sum(axis=1) <= 0).mean()),
        "zero_probabilities": float((p == 0).mean()),
    }


def _peak_of_reading(code: str) -> float:
    """MiB by which the peak of a fresh process grows after `mark()`."""
    head = """
from tinyvit.runtime.memory import peak_mib
def mark():
    global before
    before = peak_mib()
"""
    root, whole = Path(__file__).parents[1], f"{head}{code}\nprint(peak_mib() - before)"
    done = subprocess.run([sys.executable, "-c", whole], cwd=root, capture_output=True, text=True, check=True)
    return float(done.stdout)


def seconds(action: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median time of an action."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


@contextmanager
def one_core() -> Iterator[None]:
    """Everything on a single core: threads of a decompressor do not count as speed."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def lines(found: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What was measured, case by case."""
    for top_k, case in found["baseline"].items():
        yield f"flat file, K={top_k}", case
    for encoding, cases in found["encodings"].items():
        for top_k, case in cases.items():
            yield f"{encoding}, K={top_k}", case
    for name, case in found["selections"].items():
        yield name, case
    for rows, cases in found["shards"].items():
        # The K of these is TOP_K[0].
        yield f"compact, {rows}/shard", cases["store"]
        yield "flat file, in turn", cases["flat"]


def cells(case: dict[str, Any]) -> list[str]:
    """The figures of a case as text, in the order of COLUMNS."""
    forms: dict[str, Callable[[float], str]] = {
        "kept": lambda x: f"{x:.1f}",
        "bytes_per_row": lambda x: f"{x:.1f}",
        "kl_mean": lambda x: f"{x:.1e}",
        "kl_max": lambda x: f"{x:.1e}",
        "kl_teacher": lambda x: f"{x:.1e}",
        "read_rows_per_s": lambda x: f"{x / 1000:,.0f}",
        "write_rows_per_s": lambda x: f"{x / 1000:,.0f}",
        "random_reads_per_s": lambda x: f"{x:,.0f}",
        "peak_mib": lambda x: f"{x:.1f}",
    }
    return ["" if case[name] is None else forms[name](case[name]) for name in COLUMNS]


def table(found: dict[str, Any]) -> Table:
    """For a terminal."""
    made = Table(title=_title(found), title_justify="left", box=box.SIMPLE, pad_edge=False)
    made.add_column("", no_wrap=True)
    shown = [place for place, name in enumerate(COLUMNS) if name in IN_TERMINAL]
    for place in shown:
        made.add_column(list(COLUMNS.values())[place], justify="right")
    for name, case in lines(found):
        made.add_row(name, *(cells(case)[place] for place in shown))
    return made


def markdown(found: dict[str, Any]) -> str:
    """For a file."""
    rows = [f"| {name} | {' | '.join(cells(case))} |" for name, case in lines(found)]
    head = f"| | {' | '.join(COLUMNS.values())} |\n| --- |{' --- |' * len(COLUMNS)}"
    return "\n".join([f"### {_title(found)}", "", head, *rows, ""])


def _title(found: dict[str, Any]) -> str:
    return f"{found['rows']:,} rows of {found['classes']:,} classes"
