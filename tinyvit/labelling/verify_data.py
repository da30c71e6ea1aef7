"""A store against itself and the shards that it was made from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from logitstore import LogitStore, Unit, verify
from tinyvit.data.index import ShardIndex, index_shards
from tinyvit.data.location import train_and_val
from tinyvit.errors import UserError
from tinyvit.runtime.progress import Progress


def faulty_units(store: LogitStore, progress: Progress) -> dict[Unit, list[str]]:
    """What is wrong with the committed units (in a sealed store: with all of them), each read back whole."""
    faults = {}
    units = len(store.units()) - (0 if store.sealed else len(store.missing()))
    with progress.task("verify", units, "units") as bar:
        for unit, found in verify(store):
            if found:
                faults[unit] = found
            bar.advance(1)
    return faults


def data_faults(store: LogitStore, data: str | Path, progress: Progress) -> list[str]:
    """Where shards are not those of the store: names, bytes, counts, keys, each read back from its place.

    `data` may hold them in `train`.
    """
    try:
        index = index_shards(train_and_val(data)[0], progress)
    except UserError as fault:
        return [str(fault)]
    faults = data_differences(store, index)
    with progress.task("keys", sum(index.counts), "samples") as bar:
        for shard in index.shards():
            try:
                for _ in shard.read_all():
                    bar.advance(1)
            except UserError as fault:
                faults.append(str(fault))
    return faults


def data_differences(store: LogitStore, index: ShardIndex) -> list[str]:
    """Where shards are not those of the store, by their index; first the first key of each shard that differs."""
    found: list[str] = []
    numbers = {name: number for number, name in enumerate(index.table.name)}
    for number, name in enumerate(store.shard_names):
        if name in numbers and store.table.sha256[number] != index.table.sha256[numbers[name]]:
            found += _key_difference(store, number, index, numbers[name])
    return found + store.table.differences(index.table)


def _key_difference(store: LogitStore, number: int, index: ShardIndex, other: int) -> list[str]:
    mine, theirs = store.table.key_digest[number], index.table.key_digest[other]
    shared = min(len(mine), len(theirs))
    differ = np.flatnonzero(mine[:shared] != theirs[:shared])
    if not len(differ):
        return []
    slot, keys = int(differ[0]), store.keys(number)
    known = repr(keys[slot]) if keys else f"one with the digest {mine[slot]:016x}"
    return [
        f"{store.shard_names[number]}, slot {slot}: the key is {known} in the store, "
        f"{index.keys(other)[slot]!r} in the data"
    ]
