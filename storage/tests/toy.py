"""What tests do to the files of the toy store of `logitstore.testing`."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from logitstore import LogitStore, StoreSpec, Unit, digest_of
from logitstore.spec import DIGESTS


def unit_file(store: LogitStore, name: str, unit: Unit) -> Path:
    """The file that holds an array of a unit."""
    folder = Path(store.location) / name / "c" / str(unit.block) / str(unit.shard)
    return next((file for file in folder.rglob("*") if file.is_file()), folder)


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
        first, second = (np.asarray(stored(group, name)[:]) for group in groups)
        assert np.array_equal(first, second), name


def stored(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """An array of a store that stock zarr has opened."""
    found = group[name]
    assert isinstance(found, zarr.Array), name
    return found
