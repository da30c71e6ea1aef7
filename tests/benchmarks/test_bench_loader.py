"""The benchmark of loading runs, on few images; its figures are for benchmarks/results."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import endurance, loader
from tinyvit.config import Augment
from tinyvit.data.index import ShardIndex
from tinyvit.runtime.progress import LogProgress


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ShardIndex]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "PHOTOGRAPHS", 60)
        patch.setattr(loader, "PER_SHARD", 30)
        folder = tmp_path_factory.mktemp("bench")
        return folder, loader.prepare(folder, LogProgress())


def test_every_way_is_measured(prepared: tuple[Path, ShardIndex], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "ROUNDS", 1)
    monkeypatch.setattr(loader, "BATCH", 10)
    found = loader.measure(*prepared, Augment(), LogProgress())
    for rates in (found, found["workers_2"]):
        assert all(rates[f"{way}_images_per_s"] > 0 for way in loader.KEYS)
    text = loader.markdown(found)
    assert all(words in text for words in loader.WORDS.values())
    assert loader.table(found).row_count == len(loader.KEYS)


def test_endurance_tells_memory_and_the_longest_wait(
    prepared: tuple[Path, ShardIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endurance, "BATCH", 10)
    found = endurance.endure(*prepared, minutes=0.1, workers=1, progress=LogProgress())
    assert found["images"] > 60
    assert len(found["memory_mib"]) >= 10
    # torch alone is more than that in each process.
    assert found["peak_mib"] > 200
    assert 0 < found["longest_wait_s"] < 60


def test_endurance_from_afar_asks_for_each_shard_once(
    prepared: tuple[Path, ShardIndex], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endurance, "BATCH", 10)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = endurance.endure_far(*prepared, 0.1, 1, LogProgress(), delay=0.001, rate=1e9)
    assert found["images"] > 60
    # Two shards; of the store's two units the documents, the index and the rows.
    assert found["requests"] < 60
    assert found["sent_mib"] <= found["cache_mib"] + 1
    assert "requests" in str(endurance.table(found).caption)
