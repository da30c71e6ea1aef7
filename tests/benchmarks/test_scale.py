"""The benchmark of scale, on a small scale."""

from __future__ import annotations

from pathlib import Path

from support import Bucket

from benchmarks import full_scale
from storage import LogitStore
from tinyvit.progress import SilentProgress


def test_the_synthetic_store_is_one_for_every_operation(tmp_path: Path, bucket: Bucket) -> None:
    for location in (str(tmp_path / "s"), bucket.s3("large")):
        full_scale.make(location, 90, 3, SilentProgress())
        for operation in full_scale.OPERATIONS.values():
            operation(location)
        store = LogitStore.open(location)
        assert store.sealed
        assert len(store.units()) == 54
        assert store.read(0, full_scale.REAL_UNITS - 2).valid.all()
