"""The benchmark of streaming runs, on few images; its figures are for benchmarks/results."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import stream
from tinyvit.runtime.progress import LogProgress


def test_every_way_is_measured_and_what_it_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PHOTOGRAPHS": 60, "PER_SHARD": 20, "BATCH": 10, "ROUNDS": 1, "WORKERS": (1,)}.items():
        monkeypatch.setattr(stream, name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    found = stream.measure(tmp_path, 0.001, 1e9, LogProgress())
    measured = found["workers_1"]
    assert all(measured[f"{way}_images_per_s"] > 0 for way in stream.WAYS)
    assert measured["local_requests"] == measured["local_several_requests"] == 0
    # Some of a batch's samples lie side by side.
    assert 30 < measured["direct_requests"] <= 60
    # A shard of so few is one request, for all ranks and all views of a reading.
    assert measured["remote_requests"] == measured["remote_several_requests"] == found["ranks"]["requests"] == 3
    for figure in (measured["remote_bytes"], measured["remote_several_bytes"], found["ranks"]["bytes"]):
        assert figure == found["data_bytes"]
    # At the size of ImageNet-21k, whatever is measured above.
    assert found["order"]["seconds"] < 10
    assert 400 < found["order"]["mib_a_node"] < 1024
    text = stream.markdown(found)
    assert all(words in text for words in stream.WAYS.values())
    assert stream.table(found).row_count == len(stream.WAYS)
