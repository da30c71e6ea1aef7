"""Is a store what it says it is? Reads every committed unit and returns what is wrong, unit by unit."""

from __future__ import annotations

from collections.abc import Iterator

from storage.encoding import ENCODINGS
from storage.rows import row_faults, unit_checksum
from storage.spec import StoreError, Unit
from storage.store import LogitStore


def verify(store: LogitStore, units: list[Unit] | None = None) -> Iterator[tuple[Unit, list[str]]]:
    """Check units (all committed ones by default) one by one: checksums of chunks and unit, ids, order, residual.

    Yields (unit, faults); no faults means that every value reads back as it was committed.
    """
    missing = set(store.missing())
    for unit in store.units() if units is None else units:
        if unit in missing:
            if units is not None:
                yield unit, ["not committed"]
            continue
        yield unit, _unit_faults(store, unit)


def _unit_faults(store: LogitStore, unit: Unit) -> list[str]:
    try:
        stored = store.read_unit(unit)
    except (StoreError, ValueError, RuntimeError, OSError) as fault:
        return [f"a chunk cannot be read: {str(fault).splitlines()[0]}"]
    faults = []
    if unit_checksum(unit, stored) != store.commitment(unit):
        faults.append("its values are not the ones that were committed")
    valid = stored["valid"]
    ratios = ENCODINGS[store.spec.encoding].decode(stored["log_ratio"][valid])
    return faults + row_faults(store.spec, stored["class_id"][valid], ratios, stored["residual"][valid])
