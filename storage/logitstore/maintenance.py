"""Whole stores: what two of them say differently, a copy with less in it, one store out of several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from logitstore.errors import StoreError, StoreMismatch
from logitstore.layout import Keys
from logitstore.rows import Rows, UnitRows
from logitstore.spec import FORMAT_VERSION, StoreSpec, Unit
from logitstore.store import LogitStore


@dataclass(frozen=True)
class Difference:
    """How two stores differ on the views of one epoch of one shard.

    rows            views that both have logits for
    equal           of them, those with the same classes, probabilities and residual, to the last bit
    other_best      those with another best class
    other_seed      those made from another seed: other views of the image
    other_validity  views that only one of them has logits for
    variation       [rows] total variation distance of their probabilities, 0 to 1
    """

    epoch: int
    shard: int
    rows: int
    equal: int
    other_best: int
    other_seed: int
    other_validity: int
    variation: NDArray[np.float32]


def diff(one: LogitStore, two: LogitStore) -> Iterator[Difference]:
    """Compare two stores of the same shards, epoch by epoch, where both have the unit.

    K and encoding may differ. StoreError when they are not of the same shards.
    """
    _refuse_other_data(one, two)
    present = [set(store.units()) - set(store.missing()) for store in (one, two)]
    for epoch in range(min(one.spec.epochs, two.spec.epochs)):
        for shard in range(len(one.table)):
            units = [Unit(epoch // store.spec.epochs_per_unit, shard) for store in (one, two)]
            if units[0] in present[0] and units[1] in present[1]:
                yield _difference(epoch, shard, one.read(epoch, shard), two.read(epoch, shard))


def _difference(epoch: int, shard: int, one: Rows, two: Rows) -> Difference:
    both = one.valid & two.valid
    variation = total_variation(one, two)[both]
    same_residual = one.residual[both] == two.residual[both]
    return Difference(
        epoch=epoch,
        shard=shard,
        rows=int(both.sum()),
        equal=int(((variation == 0) & same_residual).sum()),
        other_best=int((one.class_id[both, 0] != two.class_id[both, 0]).sum()),
        other_seed=int((one.seed[both] != two.seed[both]).sum()),
        other_validity=int((one.valid != two.valid).sum()),
        variation=variation,
    )


def total_variation(one: Rows, two: Rows) -> NDArray[np.float32]:
    """[S] half of the summed differences of probabilities, the residual counted as a class of its own."""
    ids = np.concatenate([one.class_id, two.class_id], axis=1).astype(np.int64)
    signed = np.concatenate([one.probability, -two.probability], axis=1)
    order = np.argsort(ids, axis=1, kind="stable")
    ids, signed = np.take_along_axis(ids, order, 1), np.take_along_axis(signed, order, 1)
    # Entries of one class stand side by side: each is added to the next, and only the last of them counts.
    for column in range(1, ids.shape[1]):
        same = ids[:, column] == ids[:, column - 1]
        signed[same, column] += signed[same, column - 1]
        signed[same, column - 1] = 0
    distance: NDArray[np.float32] = (np.abs(signed).sum(axis=1) + np.abs(one.residual - two.residual)) / 2
    return distance


def copy_spec(
    spec: StoreSpec, epochs: range | None = None, top_k: int | None = None, encoding: str | None = None
) -> StoreSpec:
    """The specification of a copy with these epochs, at most this K, in this encoding. StoreError when impossible."""
    if epochs is not None and (len(epochs) == 0 or epochs.start < 0 or epochs.stop > spec.epochs):
        raise StoreError(f"the store has the epochs 0 to {spec.epochs - 1}; choose some of them")
    if top_k is not None and top_k > spec.top_k:
        raise StoreError(f"the store keeps {spec.top_k} classes of a view; a copy cannot have {top_k}")
    if spec.selection == "sampled" and (top_k or encoding not in (None, "counts")):
        raise StoreError("sampled rows are unbiased as they are; copy them with their K and encoding")
    count = len(epochs) if epochs is not None else spec.epochs
    return replace(
        spec,
        epochs=count,
        epochs_per_unit=min(count, spec.epochs_per_unit),
        top_k=top_k or spec.top_k,
        encoding=encoding or spec.encoding,
        # What a name means today.
        format_version=FORMAT_VERSION if encoding else spec.format_version,
    )


def copy(
    source: LogitStore,
    target: str | Path,
    epochs: range | None = None,
    top_k: int | None = None,
    encoding: str | None = None,
) -> Iterator[Unit]:
    """Make or complete a copy, which numbers its epochs from 0; yields each unit when it is committed.

    A unit of the source that is missing stays missing. The copy is sealed where the source is. StoreError when
    something else stands at `target`.
    """
    spec = copy_spec(source.spec, epochs, top_k, encoding)
    made = _open_or_create(source, target, spec)
    first = epochs.start if epochs is not None else 0
    absent = {(unit.block, unit.shard) for unit in source.missing()}
    for unit in made.missing():
        numbers = [first + epoch for epoch in spec.epochs_of(unit)]
        if any((number // source.spec.epochs_per_unit, unit.shard) in absent for number in numbers):
            continue
        rows = [truncate(source.read(number, unit.shard), spec.top_k) for number in numbers]
        made.write_unit(unit, UnitRows.stacked(rows))
        yield unit
    if source.sealed and not made.sealed:
        made.seal()


def merge(sources: Sequence[LogitStore], target: str | Path) -> Iterator[Unit]:
    """Fill a store with the units of several of the same specification; yields each unit when it is committed.

    Of units that several have, the first one's is taken. The result is sealed when no unit is missing. StoreError
    when the specifications, the shards or the library versions differ.
    """
    first = sources[0]
    for other in sources[1:]:
        _refuse(first, other.spec, other.location)
        _refuse_other_data(first, other)
    made = _open_or_create(first, target, first.spec)
    present = [set(source.units()) - set(source.missing()) for source in sources]
    for unit in made.missing():
        for source, units in zip(sources, present, strict=True):
            if unit in units:
                made.write_unit(unit, source.read_unit(unit))
                yield unit
                break
    if not made.missing() and not made.sealed:
        made.seal()


def truncate(rows: Rows, top_k: int) -> Rows:
    """The same rows with their K best classes only; the mass of the others joins the residual."""
    if top_k >= rows.class_id.shape[1]:
        return rows
    order = np.argsort(-rows.probability, axis=1, kind="stable")
    probability = np.take_along_axis(rows.probability, order, 1)
    return replace(
        rows,
        class_id=np.take_along_axis(rows.class_id, order[:, :top_k], 1),
        probability=probability[:, :top_k],
        residual=np.minimum(rows.residual + probability[:, top_k:].sum(axis=1), np.float32(1)),
    )


def _open_or_create(source: LogitStore, target: str | Path, spec: StoreSpec) -> LogitStore:
    if not LogitStore.exists(target):
        return LogitStore.create(target, spec, source.table, source.class_names, _keys_of(source))
    made = LogitStore.open(target)
    _refuse(made, spec, source.location)
    _refuse_other_data(made, source)
    return made


def _keys_of(store: LogitStore) -> Keys | None:
    return None if store.keys(0) is None else lambda shard: store.keys(shard) or []


def _refuse_other_data(one: LogitStore, two: LogitStore) -> None:
    if found := one.table.differences(two.table):
        raise StoreMismatch(f"{one.location} and {two.location} are not of the same data: {found[0]}")


def _refuse(store: LogitStore, spec: StoreSpec, location: str) -> None:
    found = store.spec.differences(spec)
    if not found and dict(store.spec.libraries) != dict(spec.libraries):
        found = [f"libraries are {dict(store.spec.libraries)} in the store, {dict(spec.libraries)} here"]
    if found:
        raise StoreMismatch(f"{store.location} and {location} do not have the same specification: {found[0]}")
