"""The benchmark of scale, on a small scale."""

from __future__ import annotations

from pathlib import Path

from buckets import Bucket

from benchmarks import full_scale, report
from logitstore import LogitStore
from tinyvit.runtime.progress import SilentProgress


def test_the_synthetic_store_is_one_for_every_operation(tmp_path: Path, bucket: Bucket) -> None:
    for location in (str(tmp_path / "s"), bucket.s3("large")):
        full_scale.make(location, 90, 3, SilentProgress())
        for operation in full_scale.OPERATIONS.values():
            operation(location)
        store = LogitStore.open(location)
        assert store.sealed
        assert len(store.units()) == 54
        assert store.read(0, full_scale.REAL_UNITS - 2).valid.all()


def test_the_page_about_synthetic_rows_is_small_and_says_that_it_sampled(tmp_path: Path) -> None:
    found = report.measure(tmp_path, SilentProgress(), samples=300)
    assert found["rows"] == 60_000
    assert found["rows_drawn"] == report.DRAWN
    assert found["page_bytes"] == (tmp_path / "report.html").stat().st_size < 5 * 2**20
    assert "50,000 of 60,000 rows" in (tmp_path / "report.html").read_text()
    assert "60,000" in report.markdown(found)
