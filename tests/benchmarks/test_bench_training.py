"""The benchmark of training runs and names what it promises."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import SMALL

import benchmarks.training as bench
from tinyvit.config import load_recipe
from tinyvit.data.location import resolve_data
from tinyvit.runtime.progress import LogProgress


def test_every_way_is_timed_in_one_run(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ROUNDS", 1)
    recipe = resolve_data(load_recipe("example", (*SMALL, "label.epochs=1", "label.epochs_per_unit=1")), small_data)
    found = bench.measure(recipe, tmp_path, LogProgress())
    for way in ("bare", "supervised", "stored", "online"):
        assert found[f"{way}_images_per_s"] > 0
        assert found[f"{way}_peak_memory_mib"] > 100
    # The teacher takes memory that its stored logits do not.
    assert found["online_peak_memory_mib"] > found["stored_peak_memory_mib"]
    assert "stored / supervised" in bench.markdown(found)
