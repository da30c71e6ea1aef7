"""A store of ImageNet-21k's size, 14.2 million images in 2,048 shards x 90 epochs: what handling it takes.

A few units hold rows of true shape; of the others stand the commits and objects of one byte, so that every listing is
as long as it would be. Each operation runs in a process of its own, whose highest memory counts, imports included.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.confirm import confirm
from logitstore import LogitStore, ShardTable, StoreSpec, Unit, UnitRows
from logitstore.objects import open_objects
from logitstore.units import commit_key
from tinyvit.config import load_recipe
from tinyvit.labelling.describe import describe
from tinyvit.runtime.memory import peak_mib
from tinyvit.runtime.progress import Progress

IMAGES, SHARDS, EPOCHS, CLASSES, TOP_K = 14_200_000, 2048, 90, 21_841, 100
EPOCHS_PER_UNIT = 5
# Units with rows.
REAL_UNITS = 4
AT_ONCE = 64


def make(location: str, images: int, shards: int, progress: Progress) -> None:
    """The store, complete but for the seal."""
    rng = np.random.default_rng(0)
    counts = np.full(shards, images // shards)
    counts[: images % shards] += 1
    digests = np.split(rng.permutation(np.arange(images, dtype=np.uint64) << np.uint64(30)), np.cumsum(counts)[:-1])
    table = ShardTable(
        tuple(f"imagenet21k-{n:06d}.tar" for n in range(shards)),
        tuple(int(n) for n in counts),
        tuple(f"{n:064x}" for n in range(shards)),
        tuple(digests),
    )
    spec = StoreSpec(
        data="imagenet21k", epochs=EPOCHS, epochs_per_unit=EPOCHS_PER_UNIT, top_k=TOP_K, num_classes=CLASSES,
        encoding="compact", run_seed=0, teacher={"name": "synthetic"}, augment={}, libraries={}, created="",
    )  # fmt: skip
    store = LogitStore.create(
        location, spec, table, keys=lambda shard: [f"n{shard:08d}_{slot}" for slot in range(table.samples[shard])]
    )
    units = store.units()
    with progress.task("make", len(units), "units") as bar:
        for unit in units[:REAL_UNITS]:
            store.write_unit(unit, synthetic_rows(spec, table.samples[unit.shard], rng))
            bar.advance(1)
        put = _putter(location)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(lambda unit: _stand_in(store, unit, put), units[REAL_UNITS:]):
                bar.advance(1)
    # A store that took weeks is on the disk; what is still on its way there would stand in the way.
    os.sync()


def synthetic_rows(spec: StoreSpec, samples: int, rng: np.random.Generator) -> UnitRows:
    """Logits that are spread out, each row over classes of its own."""
    shape = (spec.epochs_per_unit, samples)
    p = np.sort(rng.exponential(size=(*shape, TOP_K)).astype(np.float32), axis=-1)[..., ::-1]
    p *= 0.9 / p.sum(axis=-1, keepdims=True)
    first = rng.integers(0, CLASSES, (*shape, 1))
    steps = rng.integers(1, CLASSES // TOP_K, (*shape, TOP_K)).cumsum(axis=-1)
    return UnitRows(
        class_id=(first + steps) % CLASSES,
        probability=p,
        residual=np.full(shape, 0.1, np.float32),
        seed=rng.integers(0, 2**32, shape, dtype=np.uint32),
        valid=np.ones(shape, bool),
        view_digest=np.zeros((spec.epochs_per_unit, spec.probes), np.uint32),
    )


def _putter(location: str) -> Callable[[str, bytes], None]:
    """Writes an object; on a disk without waiting for it, a quarter of a million times."""
    if "://" in location:
        return open_objects(location).put

    def put(key: str, data: bytes) -> None:
        path = Path(location) / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return put


def _stand_in(store: LogitStore, unit: Unit, put: Callable[[str, bytes], None]) -> None:
    for array in store.arrays.values():
        put(array.key(unit.block, unit.shard), b"0")
    put(commit_key(unit), bytes(4 * EPOCHS_PER_UNIT + 4))


def measure(location: str) -> dict[str, dict[str, float]]:
    """Seconds and highest MiB of each operation on the store that `make` left at a folder or a URL."""
    return {name: _alone(operation, location) for name, operation in OPERATIONS.items()}


def _open(location: str) -> None:
    confirm(LogitStore.open(location).has_index, "the store has no index")


def _scan(location: str) -> None:
    confirm(LogitStore.open(location).missing() == [], "units are missing")


def _plan(_location: str) -> None:
    # With torch in it, which the other operations do without.
    from tinyvit.labelling.plan import Work, plan

    label = load_recipe("in22k-distill-21m").label
    units = plan(label, Work(IMAGES, SHARDS, CLASSES), 8, 1500.0, None).units
    confirm(units == SHARDS * EPOCHS // EPOCHS_PER_UNIT, f"{units:,} units are planned")


def _seal(location: str) -> None:
    confirm(LogitStore.open(location).seal(), "the store was not sealed")


def _info(location: str) -> None:
    confirm(describe(LogitStore.open(location))["units_missing"] == 0, "units are missing")


def _check(location: str) -> None:
    """What is read before training: the documents, the index, the seal."""
    confirm(LogitStore.open(location).faults() == [], "the store has faults")


OPERATIONS = {"open": _open, "scan": _scan, "plan": _plan, "seal": _seal, "info": _info, "check": _check}


def _alone(operation: Callable[[str], None], location: str) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_timed, operation, location).result()


def _timed(operation: Callable[[str], None], location: str) -> dict[str, float]:
    began = time.perf_counter()
    operation(location)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "mib": peak_mib()}
