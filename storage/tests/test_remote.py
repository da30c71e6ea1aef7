"""A store in a bucket and behind a web server: the same code, the same guarantees, over real HTTP."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from buckets import Bucket
from isolated import without_packages

from logitstore import LogitStore, StoreError, diff, merge, verify
from logitstore.objects import open_objects
from logitstore.testing import SPEC, TABLE, made_store, random_rows


@pytest.mark.parametrize("epochs_per_unit", [1, 2])
def test_a_store_in_a_bucket_is_the_one_on_disk(bucket: Bucket, tmp_path: Path, epochs_per_unit: int) -> None:
    spec = replace(SPEC, epochs_per_unit=epochs_per_unit)
    local, remote = made_store(tmp_path / "local", spec), made_store(bucket.s3(f"same-{epochs_per_unit}"), spec)
    assert remote.missing() == []
    remote.seal()
    reopened = LogitStore.open(remote.location)
    assert reopened.sealed
    assert reopened.faults() == []
    assert not any(faults for _, faults in verify(reopened))
    found = list(diff(local, reopened))
    assert sum(d.equal for d in found) == sum(d.rows for d in found) == 24
    assert (reopened.read(2, 1).view_digest == local.read(2, 1).view_digest).all()
    here, there = (store.stored_bytes(store.units()) for store in (local, reopened))
    assert there.pop("metadata") > here.pop("metadata")  # it has a seal
    assert here == there


def test_parts_on_disk_and_in_a_bucket_are_merged(bucket: Bucket, tmp_path: Path) -> None:
    local, remote = (LogitStore.create(place, SPEC, TABLE) for place in (tmp_path / "one", bucket.s3("part")))
    for number, unit in enumerate(local.units()):
        (local, remote)[number % 2].write_unit(unit, random_rows(unit))
    assert len(list(merge([local, remote], bucket.s3("merged")))) == 4
    assert LogitStore.open(bucket.s3("merged")).sealed


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("s3://no-such-bucket/store", "s3://no-such-bucket/store"),
        ("ftp://host/store", "cannot be opened"),
        ("http://127.0.0.1:9/store", "http://127.0.0.1:9/store"),
    ],
)
def test_places_that_are_none(bucket: Bucket, location: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logitstore.objects.RETRIES", {"max_retries": 0, "retry_timeout": timedelta(1)})
    with pytest.raises(StoreError, match=message) as fault:
        LogitStore.open(location)
    assert "\n" not in str(fault.value)


def test_a_bucket_that_goes_away_is_one_line(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logitstore.objects.RETRIES", {"max_retries": 0, "retry_timeout": timedelta(1)})
    made = made_store(bucket.s3("away"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    gone = LogitStore(open_objects(bucket.s3("away")), made._attributes)
    with pytest.raises(StoreError, match="cannot be read"):
        gone.read(0, 0)


@pytest.mark.parametrize("asked", ["LogitStore.open('s3://b/s')", "open_objects('s3://b/s').put_new('k', b'')"])
def test_a_bucket_without_its_package_is_one_line(asked: str) -> None:
    code = f"from logitstore import *\ntry:\n    {asked}\nexcept StoreError as fault:\n    print(fault)"
    done = without_packages({"obstore"}, code)
    assert done.stdout == "s3://b/s needs the package obstore: pip install obstore\n", done.stderr
