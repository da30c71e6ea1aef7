"""Is a store what it says it is? Reads every committed unit and returns what is wrong, unit by unit."""

from __future__ import annotations

from collections.abc import Iterator

from logitstore.chunks import DamagedObject
from logitstore.errors import StoreError
from logitstore.packing import stored_faults
from logitstore.spec import Unit
from logitstore.store import LogitStore


def verify(store: LogitStore, units: list[Unit] | None = None) -> Iterator[tuple[Unit, list[str]]]:
    """Check units (all committed ones by default) one by one: checksums, commit, ids, probabilities, seeds.

    Yields (unit, faults); no faults means that every value reads back as it was committed. In a sealed store every
    unit must be there.
    """
    missing = set(store.missing())
    for unit in store.units() if units is None else units:
        if unit not in missing:
            yield unit, _unit_faults(store, unit)
        elif units is not None or store.sealed:
            yield unit, ["not committed"]


def _unit_faults(store: LogitStore, unit: Unit) -> list[str]:
    samples = store.samples[unit.shard]
    faults: dict[str, None] = {}
    try:
        for values in store.stored_values(unit):
            faults |= dict.fromkeys(stored_faults(values, samples, store.spec))
    except (DamagedObject, StoreError, OSError) as fault:
        faults[str(fault).splitlines()[0]] = None
    return list(faults)
