"""The promises of a store: whole units, committed last, nothing wrong read in silence."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from storage import ENCODINGS, LogitStore, ShardTable, StoreError, StoreSpec, Unit, UnitRows, verify

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


def random_rows(unit: Unit, spec: StoreSpec = SPEC) -> UnitRows:
    """Rows of real shape: the best classes of random logits."""
    rng = np.random.default_rng([unit.block, unit.shard])
    shape = (len(spec.epochs_of(unit)), SAMPLES[unit.shard])
    logits = rng.normal(scale=3, size=(*shape, spec.num_classes))
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    order = np.argsort(-log_p, axis=-1)
    best = np.take_along_axis(log_p, order[..., : spec.top_k], -1)
    rest = np.take_along_axis(log_p, order[..., spec.top_k :], -1)
    with np.errstate(divide="ignore"):
        residual = np.log(np.exp(rest).sum(-1))
    return UnitRows(
        class_id=order[..., : spec.top_k],
        log_ratio=best - best[..., :1],
        residual=residual,
        seed=rng.integers(2**32, size=shape, dtype=np.uint32),
        valid=np.ones(shape, bool),
        view_digest=rng.integers(2**32, size=(shape[0], spec.probes), dtype=np.uint32),
    )


@pytest.fixture
def store(tmp_path: Path) -> LogitStore:
    made = LogitStore.create(tmp_path / "store", SPEC, TABLE, [f"class {i}" for i in range(9)])
    for unit in made.units():
        made.write_unit(unit, random_rows(unit))
    return made


def test_rows_read_back_within_the_error_of_the_encoding(store: LogitStore) -> None:
    for unit in store.units():
        wanted = random_rows(unit)
        for e, epoch in enumerate(SPEC.epochs_of(unit)):
            rows = store.read(epoch, unit.shard)
            assert (rows.class_id == wanted.class_id[e]).all()
            assert (rows.seed == wanted.seed[e]).all()
            assert np.abs(rows.log_ratio - wanted.log_ratio[e]).max() <= ENCODINGS["compact"].max_error + 1e-6
            assert np.allclose(rows.probabilities().sum(-1) + np.exp(rows.residual), 1, atol=1e-6)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encoding_error_is_within_its_bound_down_to_its_floor(encoding: str) -> None:
    kind = ENCODINGS[encoding]
    ratios = np.linspace(kind.floor, 0, 10_001)
    assert np.abs(kind.decode(kind.encode(ratios)) - ratios).max() <= kind.max_error * 1.001
    assert kind.decode(kind.encode(np.array([-np.float64(1e6)])))[0] == pytest.approx(kind.floor)


def test_a_store_with_every_class_kept_has_no_residual(tmp_path: Path) -> None:
    spec = replace(SPEC, top_k=9)
    made = LogitStore.create(tmp_path / "s", spec, TABLE)
    made.write_unit(Unit(0, 0), random_rows(Unit(0, 0), spec))
    rows = made.read(0, 0)
    assert (rows.residual == -np.inf).all()
    assert np.allclose(rows.probabilities().sum(-1), 1, atol=1e-6)


def test_missing_units_are_what_was_not_committed(tmp_path: Path) -> None:
    made = LogitStore.create(tmp_path / "s", SPEC, TABLE)
    assert made.missing() == made.units() == [Unit(0, 0), Unit(0, 1), Unit(1, 0), Unit(1, 1)]
    made.write_unit(Unit(1, 0), random_rows(Unit(1, 0)))
    reopened = LogitStore.open(tmp_path / "s")
    assert reopened.missing() == [Unit(0, 0), Unit(0, 1), Unit(1, 1)]
    with pytest.raises(StoreError, match="not labelled yet"):
        reopened.read(0, 0)
    with pytest.raises(StoreError, match="3 units are missing"):
        made.seal()


@pytest.mark.parametrize("name", ["class_id", "valid", "view_digest", "committed"])
def test_a_write_that_dies_leaves_the_unit_uncommitted(
    store: LogitStore, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = Unit(0, 1)
    real = type(store.array("seed")).__setitem__

    def full_disk(array: zarr.Array, place: object, values: object) -> None:
        if array.basename == name and not (name == "committed" and values == 0):
            raise OSError(28, "No space left on device")
        real(array, place, values)

    monkeypatch.setattr(zarr.Array, "__setitem__", full_disk)
    with pytest.raises(OSError, match="No space"):
        store.write_unit(unit, random_rows(unit))
    monkeypatch.undo()
    assert LogitStore.open(store.path).missing() == [unit]


def test_every_flipped_bit_of_unit_data_is_noticed(store: LogitStore) -> None:
    files = [f for f in store.path.rglob("*") if f.is_file() and "/c/" in str(f) and "class_name" not in str(f)]
    unit_files = [f for f in files if f.relative_to(store.path).parts[0] in
                  ("class_id", "log_ratio", "residual", "seed", "valid", "view_digest", "committed")]  # fmt: skip
    rng = np.random.default_rng(0)
    for file in unit_files:
        content = file.read_bytes()
        place, bit = int(rng.integers(len(content))), 1 << int(rng.integers(8))
        file.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
        opened = LogitStore.open(store.path)
        try:
            noticed = any(faults for _, faults in verify(opened)) or bool(opened.missing())
        except (ValueError, RuntimeError):
            noticed = True
        assert noticed, f"bit {bit} of byte {place} of {file}"
        file.write_bytes(content)
    assert not any(faults for _, faults in verify(LogitStore.open(store.path)))


def test_units_swapped_between_shards_are_noticed(store: LogitStore) -> None:
    for name in ("class_id", "log_ratio", "residual", "seed", "valid", "view_digest", "committed"):
        parts = ["0", "0", "0", "0"][: len(store.array(name).shape)]
        one = store.path / name / "c" / "/".join(["0", "0", *parts[2:]])
        two = store.path / name / "c" / "/".join(["1", "0", *parts[2:]])
        shutil.copy(one, two)
    faults = {unit: found for unit, found in verify(LogitStore.open(store.path)) if found}
    assert Unit(1, 0) in faults


def test_absent_chunk_of_a_committed_unit_is_noticed(store: LogitStore) -> None:
    shutil.rmtree(store.path / "valid" / "c" / "0" / "0")
    faults = {unit: found for unit, found in verify(LogitStore.open(store.path)) if found}
    assert list(faults) == [Unit(0, 0)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_id": lambda r: np.full_like(r.class_id, 9)}, "class id outside"),
        ({"class_id": lambda r: np.zeros_like(r.class_id)}, "a class twice"),
        ({"log_ratio": lambda r: r.log_ratio[..., ::-1]}, "order"),
        ({"log_ratio": lambda r: r.log_ratio * np.nan}, "not a finite number"),
        ({"residual": lambda r: r.residual * 0 + 0.1}, "residual"),
        ({"seed": lambda r: r.seed[:1]}, "seed has the shape"),
    ],
)
def test_impossible_rows_are_refused(store: LogitStore, change: dict, message: str) -> None:
    rows = random_rows(Unit(0, 0))
    broken = replace(rows, **{name: make(rows) for name, make in change.items()})
    with pytest.raises(StoreError, match=message):
        store.write_unit(Unit(0, 0), broken)


def test_invalid_rows_are_stored_as_nothing_and_marked(store: LogitStore) -> None:
    rows = random_rows(Unit(0, 0))
    rows.valid[0, 2] = False
    rows.log_ratio[0, 2] = np.nan
    store.write_unit(Unit(0, 0), rows)
    read = store.read(0, 0)
    assert list(read.valid) == [True, True, False, True, True]
    assert not any(faults for _, faults in verify(store))


def test_creating_over_a_store_or_other_data_is_refused(store: LogitStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="already exists"):
        LogitStore.create(store.path, SPEC, TABLE)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match="already exists"):
        LogitStore.create(tmp_path / "other", SPEC, TABLE)
    assert (tmp_path / "other" / "thesis.tex").exists()


def test_a_creation_cut_short_is_no_store_and_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s"
    monkeypatch.setattr("storage.store.create_arrays", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        LogitStore.create(path, SPEC, TABLE)
    monkeypatch.undo()
    with pytest.raises(StoreError, match="cut short"):
        LogitStore.open(path)
    assert LogitStore.create(path, SPEC, TABLE).missing()


def test_another_version_and_an_edited_attribute_are_refused(store: LogitStore) -> None:
    group = zarr.open_group(store.path, mode="r+")
    for name, value, message in (
        ("top_k", 3, "were changed"),
        ("format_version", 2, "format_version 2"),
        ("format", "thing", "not a logit store"),
    ):
        before = group.attrs[name]
        group.attrs[name] = value
        with pytest.raises(StoreError, match=message):
            LogitStore.open(store.path)
        group.attrs[name] = before
    assert LogitStore.open(store.path).spec == SPEC


def test_sealing_sweeps_temporary_files_and_uncommitting_takes_the_seal_back(store: LogitStore) -> None:
    leftover = store.path / "seed" / "c" / "0.1234.partial"
    leftover.write_bytes(b"half")
    assert store.seal()
    assert not leftover.exists()
    assert LogitStore.open(store.path).sealed
    store.uncommit(Unit(0, 0))
    reopened = LogitStore.open(store.path)
    assert not reopened.sealed
    assert reopened.missing() == [Unit(0, 0)]


@pytest.mark.parametrize(("top_k", "epochs", "per_unit"), [(10, 3, 2), (0, 3, 2), (4, 3, 4), (4, 0, 1)])
def test_a_specification_that_cannot_be_is_refused(top_k: int, epochs: int, per_unit: int) -> None:
    with pytest.raises(StoreError, match=r"choose|must be"):
        replace(SPEC, top_k=top_k, epochs=epochs, epochs_per_unit=per_unit)


def test_the_index_and_the_class_names_come_back(store: LogitStore) -> None:
    reopened = LogitStore.open(store.path)
    assert not reopened.table.differences(TABLE)
    assert all((a == b).all() for a, b in zip(reopened.table.key_digest, TABLE.key_digest, strict=True))
    assert reopened.class_names == [f"class {i}" for i in range(9)]
