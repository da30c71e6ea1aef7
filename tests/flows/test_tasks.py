"""The flows' tasks as functions, without a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from logitstore import LogitStore
from tinyvit.config import Recipe
from tinyvit.data.location import ShardLocation
from tinyvit.training.launch import Ranks
from tinyvit_flows.tasks.training import check_later_stages, check_store, run_stage


def test_a_flow_asks_once_for_each_training_shard(
    small_recipe: Recipe, small_store: LogitStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, stat = [], ShardLocation.stat

    def counted(place: ShardLocation, name: str) -> tuple[int, int]:
        asked.append(place.url(name))
        return stat(place, name)

    monkeypatch.setattr(ShardLocation, "stat", counted)
    store, run_dir, stages = small_store.location, tmp_path / "run", ["distill", "finetune"]
    assert check_store.fn(small_recipe, store) == small_store.sealed
    check_later_stages.fn(small_recipe, run_dir, store, stages)
    assert run_stage.fn(small_recipe, run_dir, store, "distill", [], Ranks(1))["stage"] == "distill"
    train = small_recipe.data.train
    assert sorted(url for url in asked if url.startswith(train)) == [f"{train}/train-00000{n}.tar" for n in range(2)]
