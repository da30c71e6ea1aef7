"""Several processes at one store, a disk that fills up at every possible moment, and a reader beside a writer."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from toy import assert_equal_stores

from logitstore import LogitStore, Rows, StoreError, Unit, UnitRows, verify
from logitstore.objects import LocalObjects
from logitstore.testing import SPEC, TABLE, made_store, random_rows

MANY = replace(SPEC, epochs=32, epochs_per_unit=1)
SPAWN = multiprocessing.get_context("spawn")


def write_units(path: str, units: list[Unit]) -> None:
    store = LogitStore.open(path)
    for unit in units:
        store.write_unit(unit, random_rows(unit, store.spec))


def test_eight_processes_write_distinct_units(tmp_path: Path, tell: Callable[[str], None]) -> None:
    whole = made_store(tmp_path / "whole", MANY)
    store = LogitStore.create(tmp_path / "s", MANY, TABLE, whole.class_names)
    units = store.units()
    writers = [SPAWN.Process(target=write_units, args=(store.location, units[n::8])) for n in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    store.seal()
    assert not any(faults for _, faults in verify(store))
    assert_equal_stores(store, whole)
    tell(f"8 processes, {len(units)} distinct units: equal to the store of one process")


def version(unit: Unit, number: int) -> UnitRows:
    """Rows of a unit that differ from writer to writer in every array."""
    rows = random_rows(unit)
    shifted = {name: np.roll(getattr(rows, name), number, axis=1) for name in ("class_id", "probability", "residual")}
    return replace(
        rows, **shifted, seed=rows.seed + np.uint32(number), view_digest=rows.view_digest + np.uint32(number)
    )


def race(path: str, number: int, rounds: int) -> None:
    store = LogitStore.open(path)
    for _ in range(rounds):
        try:
            store.write_unit(Unit(0, 0), version(Unit(0, 0), number))
        except StoreError as fault:
            if "another process writes the same unit" not in str(fault):
                raise


def test_two_processes_race_for_one_unit_beside_a_reader(
    tmp_path: Path, long: bool, tell: Callable[[str], None]
) -> None:
    store = LogitStore.create(tmp_path / "s", SPEC, TABLE)
    versions = []
    for number in (1, 2):
        store.write_unit(Unit(0, 0), version(Unit(0, 0), number))
        versions.append([store.read(epoch, 0) for epoch in (0, 1)])
    rounds = 300 if long else 40
    writers = [SPAWN.Process(target=race, args=(store.location, number, rounds)) for number in (1, 2)]
    for writer in writers:
        writer.start()
    seen: Counter[str] = Counter()
    while any(writer.is_alive() for writer in writers):
        for epoch in (0, 1):
            seen[what_is_read(store, epoch, [v[epoch] for v in versions])] += 1
    assert [writer.exitcode for writer in writers] == [0, 0]
    last = {what_is_read(store, epoch, [v[epoch] for v in versions]) for epoch in (0, 1)}
    assert last in ({"writer 1"}, {"writer 2"}) or store.missing()[0] == Unit(0, 0)
    assert not any(faults for _, faults in verify(store))
    assert seen["writer 1"] + seen["writer 2"] > 0
    reads = ", ".join(f"{what} {times}" for what, times in sorted(seen.items()))
    tell(f"2 writers of one unit, {rounds} rounds each; beside them a reader saw: {reads}; at the end {last}")


def what_is_read(store: LogitStore, epoch: int, versions: list[Rows]) -> str:
    try:
        rows = store.read(epoch, 0)
    except StoreError:
        return "refused"
    for number, wanted in enumerate(versions, 1):
        if all(np.array_equal(getattr(rows, name), getattr(wanted, name)) for name in vars(rows)):
            return f"writer {number}"
    pytest.fail("a mixture of two writers was read")


def slow_writer(path: str) -> None:
    store = LogitStore.open(path)
    for unit in store.units():
        store.write_unit(unit, random_rows(unit, store.spec))
        time.sleep(0.01)


def test_a_reader_beside_a_writer_sees_whole_units_only(tmp_path: Path, tell: Callable[[str], None]) -> None:
    whole = made_store(tmp_path / "whole", MANY)
    store = LogitStore.create(tmp_path / "s", MANY, TABLE, whole.class_names)
    writer = SPAWN.Process(target=slow_writer, args=(store.location,))
    writer.start()
    seen: Counter[str] = Counter()
    while writer.is_alive():
        for unit in store.units():
            epoch = unit.block
            seen[what_is_read_of(store, whole, epoch, unit.shard)] += 1
    assert writer.exitcode == 0
    assert seen["whole"] > 0
    assert seen["not there"] > 0
    assert_equal_stores(store, whole)
    told = ", ".join(f"{what} {times}" for what, times in sorted(seen.items()))
    tell(f"a reader beside a writer of {len(store.units())} units saw: {told}")


def what_is_read_of(store: LogitStore, whole: LogitStore, epoch: int, shard: int) -> str:
    try:
        rows = store.read(epoch, shard)
    except StoreError as fault:
        if "not there yet" not in str(fault):
            raise
        return "not there"
    wanted = whole.read(epoch, shard)
    assert all(np.array_equal(getattr(rows, name), getattr(wanted, name)) for name in vars(rows))
    return "whole"


def test_a_disk_that_is_full_at_every_possible_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tell: Callable[[str], None]
) -> None:
    whole = made_store(tmp_path / "whole")
    whole.seal()
    real = LocalObjects.put
    for moment in count():
        path = tmp_path / str(moment)
        puts = count()

        def full(objects: LocalObjects, key: str, data: bytes, moment: int = moment, puts: count[int] = puts) -> None:
            if next(puts) >= moment:
                # As a real disk does: part of the object is there, under its temporary name.
                half = objects.root / "committed" / "partial" / f"{Path(key).name}.{0:032x}.partial"
                half.parent.mkdir(parents=True, exist_ok=True)
                half.write_bytes(data[: len(data) // 2])
                raise OSError(28, "No space left on device")
            real(objects, key, data)

        monkeypatch.setattr(LocalObjects, "put", full)
        try:
            store = made_store(path)
            store.seal()
            break
        except OSError:
            monkeypatch.undo()
        if LogitStore.exists(path):
            store = LogitStore.open(path)
            assert not any(faults for _, faults in verify(store))
        else:
            store = LogitStore.create(path, SPEC, TABLE, whole.class_names)
        for unit in store.missing():
            store.write_unit(unit, random_rows(unit))
        store.seal()
        assert_equal_stores(store, whole)
        assert not list(path.rglob("*.partial"))
    assert moment > 40
    tell(f"a disk full at each of {moment} moments of making a store: resumed, equal, no leftovers")
