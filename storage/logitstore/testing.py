"""The promises of a store as tests, for every kind of place that a store can lie in.

For who adds a kind of place: a subclass says where (`location`, `publish`), pytest runs the rest. Needs pytest.

    class TestMine(StoreContract):
        @pytest.fixture
        def location(self) -> str:
            return "mine://an-empty-place"
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from logitstore.errors import StoreDamaged, StoreError, StoreNotFound, UnitMissing
from logitstore.maintenance import copy, diff
from logitstore.objects import Objects, open_objects
from logitstore.rows import UnitRows
from logitstore.spec import ShardTable, StoreSpec, Unit
from logitstore.store import LogitStore
from logitstore.units import ROOT_KEY, commit_key
from logitstore.verify import verify

# A store small enough to be written in milliseconds, with rows of real shape.
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


def made_store(location: str | Path, spec: StoreSpec = SPEC) -> LogitStore:
    """A store with every unit committed, not sealed."""
    made = LogitStore.create(location, spec, TABLE, [f"class {i}" for i in range(9)])
    for unit in made.units():
        made.write_unit(unit, random_rows(unit, spec))
    return made


def faulty_units(location: str | Path) -> dict[Unit, list[str]]:
    """What `verify` finds of a store that is opened anew."""
    return {unit: found for unit, found in verify(LogitStore.open(location)) if found}


def object_of(store: LogitStore, name: str, unit: Unit) -> str:
    """The key of the object that holds an array of a unit."""
    return commit_key(unit) if name == "committed" else store.arrays[name].key(unit.block, unit.shard)


def stored(store: LogitStore, key: str) -> bytes:
    data = store.objects.get(key)
    assert data is not None
    return data


def stop_writing(kind: type[Objects], fault: BaseException, name: str, patch: pytest.MonkeyPatch) -> None:
    """Let the first write of an object of an array fail. Objects are written one after the other meanwhile."""
    real = kind.put

    def put(objects: Objects, key: str, data: bytes) -> None:
        if key.startswith(name):
            raise fault
        real(objects, key, data)

    patch.setattr(kind, "put", put)
    patch.setattr(kind, "put_all", Objects.put_all)


def assert_equal_rows(one: LogitStore, two: LogitStore) -> None:
    """Every row of two stores is the same."""
    found = list(diff(one, two))
    assert sum(d.equal for d in found) == sum(d.rows for d in found) == SPEC.epochs * sum(SAMPLES)


class StoreContract:
    """What a store promises wherever its objects can be written.

    A subclass has the fixture `location`: a place where nothing lies yet, another one for each test.
    """

    @pytest.fixture
    def store(self, location: str) -> LogitStore:
        return made_store(location)

    @pytest.mark.parametrize("epochs_per_unit", [1, 2, 3])
    def test_rows_read_back_whatever_the_length_of_a_unit(self, location: str, epochs_per_unit: int) -> None:
        spec = replace(SPEC, epochs_per_unit=epochs_per_unit)
        made = made_store(location, spec)
        for unit in made.units():
            wanted = random_rows(unit, spec)
            for e, epoch in enumerate(spec.epochs_of(unit)):
                rows = made.read(epoch, unit.shard)
                assert (rows.class_id[:, 0] == wanted.class_id[e, :, 0]).all()
                assert (np.sort(rows.class_id) == np.sort(wanted.class_id[e])).all()
                assert (rows.seed == wanted.seed[e]).all()
                assert (rows.view_digest == wanted.view_digest[e]).all()
                assert np.allclose(rows.probability.sum(-1) + rows.residual, 1, atol=1e-6)
                best_first = np.argsort(rows.class_id), np.argsort(wanted.class_id[e])
                found = np.take_along_axis(rows.probability, best_first[0], -1)
                close = np.take_along_axis(wanted.probability[e], best_first[1], -1)
                assert np.abs(np.sqrt(found) - np.sqrt(close)).max() < 0.01

    def test_the_index_and_the_class_names_come_back(self, store: LogitStore) -> None:
        opened = LogitStore.open(store.location)
        assert opened.class_names == [f"class {i}" for i in range(9)]
        assert (opened.table.name, opened.table.samples) == (TABLE.name, TABLE.samples)
        assert all((a == b).all() for a, b in zip(opened.table.key_digest, TABLE.key_digest, strict=True))
        assert opened.spec == store.spec

    def test_missing_units_are_what_was_not_committed(self, location: str) -> None:
        made = LogitStore.create(location, SPEC, TABLE)
        assert made.missing() == made.units() == [Unit(0, 0), Unit(0, 1), Unit(1, 0), Unit(1, 1)]
        made.write_unit(Unit(1, 0), random_rows(Unit(1, 0)))
        reopened = LogitStore.open(location)
        assert reopened.missing() == [Unit(0, 0), Unit(0, 1), Unit(1, 1)]
        with pytest.raises(UnitMissing, match="not there yet"):
            reopened.read(0, 0)
        with pytest.raises(UnitMissing, match="3 units are missing"):
            made.seal()
        for unit in reopened.missing():
            reopened.write_unit(unit, random_rows(unit))
        assert made.seal() == LogitStore.open(location).sealed
        assert faulty_units(location) == {}

    @pytest.mark.parametrize("name", ["class_step", "valid", "view_digest", "committed"])
    def test_a_write_that_dies_leaves_the_unit_uncommitted(
        self, store: LogitStore, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        unit = Unit(0, 1)
        with monkeypatch.context() as patch:
            stop_writing(type(store.objects), OSError(28, "No space left on device"), name, patch)
            with pytest.raises(OSError, match="No space"):
                store.write_unit(unit, random_rows(unit))
        assert LogitStore.open(store.location).missing() == [unit]

    @pytest.mark.parametrize("name", ["class_step", "shard_name", "committed"])
    def test_a_creation_cut_short_is_no_store_and_is_made_anew(
        self, location: str, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            stop_writing(type(open_objects(location)), KeyboardInterrupt(), name, patch)
            with pytest.raises(KeyboardInterrupt):
                LogitStore.create(location, SPEC, TABLE)
        assert not LogitStore.exists(location)
        with pytest.raises(StoreNotFound, match="no logit store"):
            LogitStore.open(location)
        assert LogitStore.create(location, SPEC, TABLE).missing()

    def test_creating_over_a_store_or_other_data_is_refused(self, location: str) -> None:
        open_objects(location).put("thesis.tex", b"years of work")
        with pytest.raises(StoreError, match="already exists"):
            LogitStore.create(location, SPEC, TABLE)
        assert open_objects(location).get("thesis.tex") == b"years of work"
        open_objects(location).delete("thesis.tex")
        LogitStore.create(location, SPEC, TABLE)
        with pytest.raises(StoreError, match="already exists"):
            LogitStore.create(location, SPEC, TABLE)

    @pytest.mark.parametrize("name", UNIT_ARRAYS)
    def test_a_flipped_bit_is_noticed_and_the_unit_can_be_made_again(self, store: LogitStore, name: str) -> None:
        store.seal()
        unit, key = Unit(1, 0), object_of(store, name, Unit(1, 0))
        data = stored(store, key)
        store.objects.put(key, data[:3] + bytes([data[3] ^ 4]) + data[4:])
        assert list(faulty_units(store.location)) == [unit]
        with pytest.raises(StoreDamaged):
            LogitStore.open(store.location).read(2, 0)
        store.uncommit(unit)
        reopened = LogitStore.open(store.location)
        assert (reopened.missing(), reopened.sealed) == ([unit], "")
        reopened.write_unit(unit, random_rows(unit))
        reopened.seal()
        assert faulty_units(store.location) == {}

    # Not `valid`: every row of both units is, so the objects say the same.
    @pytest.mark.parametrize("name", [name for name in UNIT_ARRAYS if name != "valid"])
    def test_objects_swapped_between_units_are_noticed_by_every_reader(self, store: LogitStore, name: str) -> None:
        one, two = (object_of(store, name, Unit(block, 0)) for block in (0, 1))
        store.objects.put(two, stored(store, one))
        assert list(faulty_units(store.location)) == [Unit(1, 0)]
        with pytest.raises(StoreDamaged, match="not the ones that were committed"):
            store.read(2, 0)

    def test_a_whole_unit_of_another_place_is_noticed_by_every_reader(self, store: LogitStore) -> None:
        for name in UNIT_ARRAYS:
            one, two = (object_of(store, name, Unit(block, 0)) for block in (0, 1))
            store.objects.put(two, stored(store, one))
        assert list(faulty_units(store.location)) == [Unit(1, 0)]
        with pytest.raises(StoreDamaged, match="not the ones that were committed"):
            store.read(2, 0)

    def test_a_whole_unit_of_another_store_breaks_the_seal(self, store: LogitStore, tmp_path: Path) -> None:
        store.seal()
        other = made_store(tmp_path / "other")
        other.write_unit(Unit(1, 0), replace(random_rows(Unit(1, 0)), seed=np.arange(5, dtype=np.uint32)[None]))
        for name in UNIT_ARRAYS:
            key = object_of(store, name, Unit(1, 0))
            store.objects.put(key, stored(other, key))
        assert LogitStore.open(store.location).faults() == ["the seal is not that of the committed units"]

    def test_an_absent_object_of_a_committed_unit_is_noticed(self, store: LogitStore) -> None:
        store.objects.delete(object_of(store, "valid", Unit(0, 0)))
        assert faulty_units(store.location) == {Unit(0, 0): ["valid is missing"]}

    def test_a_sealed_store_that_lost_a_commit_is_noticed(self, store: LogitStore) -> None:
        store.seal()
        store.objects.delete(object_of(store, "committed", Unit(0, 1)))
        assert faulty_units(store.location) == {Unit(0, 1): ["not committed"]}

    def test_invalid_rows_are_stored_as_nothing_and_marked(self, store: LogitStore) -> None:
        rows = random_rows(Unit(0, 0))
        rows.valid[0, 2] = False
        rows.probability[0, 2] = np.nan
        store.write_unit(Unit(0, 0), rows)
        read = store.read(0, 0)
        assert list(read.valid) == [True, True, False, True, True]
        assert not faulty_units(store.location)

    def test_a_copy_to_disk_and_back_is_the_store(self, store: LogitStore, location: str, tmp_path: Path) -> None:
        store.seal()
        list(copy(store, tmp_path / "out"))
        list(copy(LogitStore.open(tmp_path / "out"), f"{location}-back"))
        back = LogitStore.open(f"{location}-back")
        assert back.sealed
        assert_equal_rows(store, back)
        for key, _ in store.objects.sizes():
            # The group's document says when the store was sealed.
            assert key == ROOT_KEY or stored(back, key) == stored(store, key), key

    def test_of_several_writers_of_an_object_one_succeeds(self, store: LogitStore) -> None:
        assert store.objects.put_new("claims/mine", b"1")
        assert not store.objects.put_new("claims/mine", b"2")
        assert store.objects.get("claims/mine") == b"1"


class PublishedContract:
    """What holds of a store where it can be read and neither written nor listed.

    A subclass has the fixtures `location`, as StoreContract, and `publish`: what makes all that lies in a location
    readable, and says where.
    """

    def test_a_sealed_store_is_read_and_verified(self, location: str, publish: Callable[[str], str]) -> None:
        made = made_store(location)
        made.seal()
        published = LogitStore.open(publish(location))
        assert (published.missing(), published.faults(), published.sealed) == ([], [], made.sealed)
        assert not any(faults for _, faults in verify(published))
        assert_equal_rows(made, published)

    def test_it_is_copied_to_disk(self, location: str, publish: Callable[[str], str], tmp_path: Path) -> None:
        made = made_store(location)
        made.seal()
        list(copy(LogitStore.open(publish(location)), tmp_path / "out"))
        assert_equal_rows(made, LogitStore.open(tmp_path / "out"))
        assert LogitStore.open(tmp_path / "out").sealed

    def test_damage_is_noticed(self, location: str, publish: Callable[[str], str]) -> None:
        made = made_store(location)
        made.seal()
        key = object_of(made, "value", Unit(1, 0))
        data = stored(made, key)
        made.objects.put(key, data[:3] + bytes([data[3] ^ 4]) + data[4:])
        published = LogitStore.open(publish(location))
        assert [unit for unit, faults in verify(published) if faults] == [Unit(1, 0)]
        with pytest.raises(StoreDamaged):
            published.read(2, 0)

    def test_an_unsealed_store_is_read_and_says_what_it_needs(
        self, location: str, publish: Callable[[str], str]
    ) -> None:
        made_store(location)
        published = LogitStore.open(publish(location))
        assert published.read(0, 0).valid.all()
        with pytest.raises(StoreError, match="not sealed"):
            published.missing()

    def test_it_cannot_be_written(self, location: str, publish: Callable[[str], str]) -> None:
        made = made_store(location)
        made.seal()
        published = LogitStore.open(publish(location))
        for change in (
            lambda: published.write_unit(Unit(0, 0), random_rows(Unit(0, 0))),
            lambda: published.uncommit(Unit(0, 0)),
            lambda: published.objects.put_new("claims/mine", b"1"),
            published.unseal,
        ):
            with pytest.raises(StoreError, match="can only be read"):
                change()
        assert LogitStore.open(location).sealed
        assert faulty_units(location) == {}
