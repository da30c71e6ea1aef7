"""The promises of a store: whole units, committed last, nothing wrong read in silence."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from toy import forget, stored

from logitstore import (
    FORMAT_VERSION,
    LogitStore,
    StoreDamaged,
    StoreError,
    StoreFormatError,
    Unit,
    copy,
    verify,
)
from logitstore.testing import SPEC, TABLE, UNIT_ARRAYS, made_store, random_rows


@pytest.fixture
def store(tmp_path: Path) -> LogitStore:
    return made_store(tmp_path / "store")


def faulty_units(store: LogitStore) -> dict[Unit, list[str]]:
    return {unit: found for unit, found in verify(LogitStore.open(store.location)) if found}


def test_a_store_with_every_class_kept_has_no_residual(tmp_path: Path) -> None:
    spec = replace(SPEC, top_k=9)
    made = LogitStore.create(tmp_path / "s", spec, TABLE)
    made.write_unit(Unit(0, 0), random_rows(Unit(0, 0), spec))
    rows = made.read(0, 0)
    assert (rows.residual == 0).all()
    assert np.allclose(rows.probability.sum(-1), 1, atol=1e-6)


def test_changed_documents_index_and_names_are_noticed(store: LogitStore) -> None:
    path = Path(store.location)
    for name, old, new, message in (
        ("value/zarr.json", b"320", b"321", "value/zarr.json is not the one"),
        ("class_name/c/0", b"", None, "class_name cannot be read"),
        ("shard_sha256/c/0", b"", b"x", "shard_sha256 cannot be read"),
    ):
        before = (path / name).read_bytes()
        (path / name).write_bytes(before[:-9] if new is None else before.replace(old, new))
        assert message in str(LogitStore.open(path).faults())
        (path / name).write_bytes(before)
    stored(zarr.open_group(path, mode="r+"), "key_digest")[0, 0] = 99
    assert "index is not the one that was written" in str(LogitStore.open(path).faults())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_id": lambda r: np.full_like(r.class_id, 9)}, "class id outside"),
        ({"class_id": lambda r: np.zeros_like(r.class_id)}, "a class twice"),
        ({"probability": lambda r: r.probability[..., ::-1]}, "not the best"),
        ({"probability": lambda r: r.probability * np.nan}, "not a number from 0 to 1"),
        ({"probability": lambda r: r.probability * [1, 1, 1, 0]}, "fewer classes"),
        ({"residual": lambda r: r.residual - 1}, "residual that is not"),
        ({"residual": lambda r: r.residual * 0 + 0.9}, "do not sum to one"),
        ({"seed": lambda r: r.seed[:1]}, "seed has the shape"),
    ],
)
def test_impossible_rows_are_refused(store: LogitStore, change: dict[str, Any], message: str) -> None:
    rows = random_rows(Unit(0, 0))
    broken = replace(rows, **{name: make(rows) for name, make in change.items()})
    with pytest.raises(StoreError, match=message):
        store.write_unit(Unit(0, 0), broken)


def test_files_of_others_are_neither_overlooked_nor_swept_away(store: LogitStore, tmp_path: Path) -> None:
    download = tmp_path / "downloads" / "film.mkv.partial"
    download.parent.mkdir()
    download.write_bytes(b"hours of work")
    with pytest.raises(StoreError, match="already exists"):
        LogitStore.create(download.parent, SPEC, TABLE)
    beside = Path(store.location) / "committed" / "partial" / "notes.partial"
    beside.parent.mkdir(exist_ok=True)
    beside.write_bytes(b"mine")
    store.seal()
    assert download.exists()
    assert beside.exists()


def test_keys_are_kept_and_go_with_a_copy(tmp_path: Path) -> None:
    def keys(shard: int) -> list[str]:
        return [f"{TABLE.name[shard]}-{slot}-ß" for slot in range(TABLE.samples[shard])]

    made = LogitStore.create(tmp_path / "s", SPEC, TABLE, keys=keys)
    for unit in made.units():
        made.write_unit(unit, random_rows(unit))
    made.seal()
    list(copy(made, tmp_path / "copy"))
    for store in (LogitStore.open(tmp_path / "s"), LogitStore.open(tmp_path / "copy")):
        assert [store.keys(shard) for shard in range(len(TABLE))] == [keys(shard) for shard in range(len(TABLE))]
    assert stored(zarr.open_group(tmp_path / "s", mode="r"), "key")[0, 0] == keys(0)[0]
    flipped = tmp_path / "s" / "key" / "c" / "0" / "0"
    flipped.write_bytes(flipped.read_bytes()[:-9])
    with pytest.raises(StoreDamaged, match="the array key cannot be read"):
        LogitStore.open(tmp_path / "s").keys(0)


def test_a_store_without_keys_says_so(store: LogitStore) -> None:
    assert store.keys(0) is None


@pytest.mark.parametrize("version", [1, FORMAT_VERSION + 1])
def test_another_version_is_refused_with_the_numbers(store: LogitStore, version: int) -> None:
    zarr.open_group(store.location, mode="r+").attrs["format_version"] = version
    with pytest.raises(StoreFormatError, match=f"format_version {version}, this program reads 2 and {FORMAT_VERSION}"):
        LogitStore.open(store.location)


# SHA-256 of all values of a store of version 2, as the release that knew no other wrote them.
OF_VERSION_2 = {"compact": "24389695f97d7d10", "fine": "02d3755c9ecfccf3", "exact": "ced16e4d2cad648e"}


@pytest.mark.parametrize("encoding", OF_VERSION_2)
def test_a_store_of_version_2_is_read_and_completed_as_it_was_begun(tmp_path: Path, encoding: str) -> None:
    spec = replace(SPEC, encoding=encoding, format_version=2, libraries={})
    made = made_store(tmp_path / "s", spec)
    group = zarr.open_group(tmp_path / "s", mode="r")
    sha = hashlib.sha256()
    for name in UNIT_ARRAYS:
        sha.update(np.asarray(stored(group, name)[:]).tobytes())
    assert sha.hexdigest()[:16] == OF_VERSION_2[encoding]
    made.seal()
    opened = LogitStore.open(tmp_path / "s")
    assert opened.spec == spec
    assert not opened.faults()
    assert not faulty_units(opened)
    assert not opened.spec.differences(replace(spec, format_version=FORMAT_VERSION))
    wanted, rows = random_rows(Unit(0, 0), spec), opened.read(1, 0)
    order = np.argsort(wanted.class_id[1]), np.argsort(rows.class_id)
    p, read = (
        np.take_along_axis(x, o, 1) for x, o in zip((wanted.probability[1], rows.probability), order, strict=True)
    )
    assert np.allclose(p, read, atol={"compact": 0.01, "fine": 1e-3, "exact": 3e-4}[encoding])


def test_a_copy_in_an_encoding_is_of_todays_version_and_a_plain_one_of_its_sources(tmp_path: Path) -> None:
    made = made_store(tmp_path / "old", replace(SPEC, encoding="exact", format_version=2))
    made.seal()
    list(copy(made, tmp_path / "plain"))
    list(copy(made, tmp_path / "encoded", encoding="exact"))
    plain, encoded = LogitStore.open(tmp_path / "plain"), LogitStore.open(tmp_path / "encoded")
    assert (plain.spec.format_version, encoded.spec.format_version) == (2, FORMAT_VERSION)
    for epoch in range(SPEC.epochs):
        rows = [store.read(epoch, 0) for store in (made, plain, encoded)]
        assert all((rows[0].probability == other.probability).all() for other in rows[1:])


def test_of_the_best_classes_those_that_are_impossible_are_not_there(tmp_path: Path) -> None:
    """Of nine classes a mask leaves three, of which the store would keep four."""
    rows = random_rows(Unit(0, 0))
    rows.probability[0, 2] = [0.7, 0.2, 0.1, 0]
    rows.class_id[0, 2] = [5, 3, 8, 5]
    rows.residual[0, 2] = 0
    for encoding in ("compact", "fine", "exact"):
        made = LogitStore.create(tmp_path / encoding, replace(SPEC, encoding=encoding), TABLE)
        made.write_unit(Unit(0, 0), rows)
        read = made.read(0, 0)
        assert read.class_id[2].tolist() == [5, 8, 3, 3]
        assert read.probability[2] == pytest.approx([0.7, 0.1, 0.2, 0], abs=0.01)
        assert read.residual[2] < 1e-6
        assert not list(faulty_units(made))
    old = LogitStore.create(tmp_path / "old", replace(SPEC, format_version=2), TABLE)
    with pytest.raises(StoreError, match="fewer classes than the store keeps"):
        old.write_unit(Unit(0, 0), rows)
    rows.residual[0, 2], rows.probability[0, 2, 1] = 0.1, 0.1
    with pytest.raises(StoreError, match="fewer classes than the store keeps"):
        made.write_unit(Unit(0, 0), rows)


def test_an_edited_attribute_is_refused(store: LogitStore) -> None:
    group = zarr.open_group(store.location, mode="r+")
    for name, value, message in (("top_k", 3, "were changed"), ("format", "thing", "not a logit store")):
        before = group.attrs[name]
        group.attrs[name] = value
        with pytest.raises(StoreError, match=message):
            LogitStore.open(store.location)
        group.attrs[name] = before
    assert LogitStore.open(store.location).spec == SPEC


def test_a_store_that_does_not_say_how_images_were_read_opens_and_differs_from_one_that_does(
    tmp_path: Path,
) -> None:
    read = {"rules": 2, "orientation": "exif", "background": None}
    made = made_store(tmp_path / "s", replace(SPEC, decode=read))
    made.seal()
    assert LogitStore.open(made.location).spec.decode == read
    other = replace(made.spec, decode=read | {"background": "white"})
    assert made.spec.differences(other) == ["decode.background is None in the store, 'white' here"]
    forget(made.location, "decode")
    earlier = LogitStore.open(made.location)
    assert earlier.sealed
    assert (earlier.spec.decode, earlier.faults()) == ({}, [])
    assert earlier.spec.differences(made.spec) == [
        f"decode is not recorded in the store (an earlier release made it), {read} here"
    ]
    assert made.spec.differences(earlier.spec) == [
        f"decode is not recorded here (an earlier release made it), {read} in the store"
    ]
    list(copy(earlier, tmp_path / "copy"))
    assert LogitStore.open(tmp_path / "copy").spec == earlier.spec


def test_two_samples_of_one_key_are_a_fault(tmp_path: Path) -> None:
    digests = [digest.copy() for digest in TABLE.key_digest]
    digests[1][0] = digests[0][0]
    made = LogitStore.create(tmp_path / "s", SPEC, replace(TABLE, key_digest=tuple(digests)))
    assert made.faults() == ["two samples have the same key"]


def test_sealing_sweeps_temporary_files_and_uncommitting_takes_the_seal_back(store: LogitStore) -> None:
    leftover = Path(store.location) / "committed" / "partial" / f"0.{'ab' * 16}.partial"
    leftover.parent.mkdir(exist_ok=True)
    leftover.write_bytes(b"half")
    assert store.seal()
    assert not leftover.exists()
    assert LogitStore.open(store.location).sealed
    store.uncommit(Unit(0, 0))
    reopened = LogitStore.open(store.location)
    assert not reopened.sealed
    assert reopened.missing() == [Unit(0, 0)]


@pytest.mark.parametrize(("top_k", "epochs", "per_unit"), [(10, 3, 2), (0, 3, 2), (4, 3, 4), (4, 0, 1)])
def test_a_specification_that_cannot_be_is_refused(top_k: int, epochs: int, per_unit: int) -> None:
    with pytest.raises(StoreError, match=r"choose|must be"):
        replace(SPEC, top_k=top_k, epochs=epochs, epochs_per_unit=per_unit)
