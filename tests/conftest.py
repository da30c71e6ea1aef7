"""Real components for every test: the example's pictures, the pretrained teacher."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from support import EXAMPLE, SMALL, label_all

from storage import LogitStore
from tinyvit.config import Recipe, load_recipe
from tinyvit.teachers import Teacher, load_teacher


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training shards and one validation shard of the example, with their class names."""
    folder = tmp_path_factory.mktemp("data")
    for split, count in (("train", 2), ("val", 1)):
        (folder / split).mkdir()
        for shard in sorted((EXAMPLE / split).glob("*.tar"))[:count]:
            shutil.copy(shard, folder / split)
        shutil.copy(EXAMPLE / split / "classes.txt", folder / split)
    return folder


@pytest.fixture(scope="session")
def small_recipe(small_data: Path) -> Recipe:
    """The example recipe, a few seconds long."""
    return load_recipe("example", SMALL).with_data(small_data)


@pytest.fixture(scope="session")
def teacher(small_recipe: Recipe) -> Teacher:
    """EfficientNet-Lite0 with its ImageNet-1k weights, on the CPU."""
    return load_teacher(small_recipe.label.teacher, torch.device("cpu"), None)


@pytest.fixture(scope="session")
def small_store(small_recipe: Recipe, teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> LogitStore:
    """A sealed store of the small recipe. Tests that change it work on a copy."""
    return label_all(small_recipe, tmp_path_factory.mktemp("stores") / "small", teacher)
