"""A store small enough to be written in milliseconds, with rows of real shape."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import zarr

from logitstore import LogitStore, ShardTable, StoreSpec, Unit, UnitRows, digest_of
from logitstore.spec import DIGESTS

SAMPLES = (5, 3)
SPEC = StoreSpec(
    data="toy",
    epochs=3,
    epochs_per_unit=2,
    top_k=4,
    num_classes=9,
    encoding="compact",
    run_seed=7,
    teacher={"name": "toy", "weights_sha256": "00", "class_list_digest": "", "input_size": 8},
    augment={"hflip": 0.5},
    libraries={"numpy": np.__version__},
    created="2026-01-01T00:00:00+00:00",
)
TABLE = ShardTable(
    name=("a.tar", "b.tar"),
    samples=SAMPLES,
    sha256=("aa", "bb"),
    key_digest=tuple(np.arange(n, dtype=np.uint64) + 10 * i for i, n in enumerate(SAMPLES)),
)


UNIT_ARRAYS = ("class_step", "value", "residual", "seed", "valid", "view_digest", "committed")


def unit_file(store: LogitStore, name: str, unit: Unit) -> Path:
    """The file that holds an array of a unit."""
    folder = Path(store.location) / name / "c" / str(unit.block) / str(unit.shard)
    return next((file for file in folder.rglob("*") if file.is_file()), folder)


def random_rows(unit: Unit, spec: StoreSpec = SPEC) -> UnitRows:
    """Rows of real shape: the best classes of random logits."""
    rng = np.random.default_rng([unit.block, unit.shard])
    shape = (len(spec.epochs_of(unit)), SAMPLES[unit.shard])
    logits = rng.normal(scale=3, size=(*shape, spec.num_classes))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    order = np.argsort(-p, axis=-1)
    return UnitRows(
        class_id=order[..., : spec.top_k],
        probability=np.take_along_axis(p, order[..., : spec.top_k], -1),
        residual=np.take_along_axis(p, order[..., spec.top_k :], -1).sum(-1),
        seed=rng.permutation(1000)[: shape[0] * shape[1]].reshape(shape).astype(np.uint32),
        valid=np.ones(shape, bool),
        view_digest=rng.integers(2**32, size=(shape[0], spec.probes), dtype=np.uint32),
    )


def made_store(path: Path, spec: StoreSpec = SPEC) -> LogitStore:
    made = LogitStore.create(path, spec, TABLE, [f"class {i}" for i in range(9)])
    for unit in made.units():
        made.write_unit(unit, random_rows(unit, spec))
    return made


def forget(location: str | Path, name: str) -> None:
    """Make a store one of the releases that did not record this attribute yet."""
    group = zarr.open_group(location, mode="r+")
    attributes = {key: value for key, value in group.attrs.items() if key != name}
    recorded = ["format", "format_version", *(f.name for f in fields(StoreSpec)), *DIGESTS]
    attributes["spec_digest"] = digest_of({key: attributes[key] for key in recorded if key in attributes})
    group.attrs.put(attributes)
    if (made := LogitStore.open(location)).sealed:
        made.seal()


def assert_equal_stores(one: LogitStore, two: LogitStore) -> None:
    """Every array of two stores, read by stock zarr, is the same."""
    groups = [zarr.open_group(store.location, mode="r") for store in (one, two)]
    assert sorted(groups[0]) == sorted(groups[1])
    for name in groups[0]:
        values = [np.asarray(group[name][:]) for group in groups]  # type: ignore[index]
        assert np.array_equal(*values), name
