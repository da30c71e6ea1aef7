"""Real components for every test: the example's pictures, the pretrained teacher."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from buckets import bucket, s3_server
from support import EXAMPLE, MANY_UNITS, SMALL, label_all

from logitstore import LogitStore
from tinyvit.config import Recipe, load_recipe
from tinyvit.data.location import resolve_data
from tinyvit.models.teachers import Teacher, load_teacher

# Fixtures that the tests of the store have too.
__all__ = ["bucket", "s3_server"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`make torture` gives --long."""
    parser.addoption("--long", action="store_true", help="torture tests at full length")
    parser.addoption("--record", action="store_true", help="tests/golden: record what is found, as what is meant")


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether torture tests are to run at full length."""
    return bool(request.config.getoption("--long"))


@pytest.fixture
def at_length(long: bool) -> None:
    """For what takes a minute, and for which another test stands in everyday runs."""
    if not long:
        pytest.skip("make torture")


TOLD = pytest.StashKey[list[str]]()


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """A line for the end of the run: what a torture test did and what came of it."""
    return request.config.stash.setdefault(TOLD, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what the torture tests told."""
    for line in config.stash.get(TOLD, []):
        terminalreporter.write_line(line)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A temporary folder in which there may be a socket: pytest's own may have too long a path."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


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
    return resolve_data(load_recipe("example", SMALL), small_data)


@pytest.fixture(scope="session")
def teacher(small_recipe: Recipe) -> Teacher:
    """EfficientNet-Lite0 with its ImageNet-1k weights, on the CPU."""
    return load_teacher(small_recipe.label.teacher, torch.device("cpu"), None)


@pytest.fixture(scope="session")
def small_store(small_recipe: Recipe, teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> LogitStore:
    """A sealed store of the small recipe. Tests that change it work on a copy."""
    return label_all(small_recipe, tmp_path_factory.mktemp("stores") / "small", teacher)


@pytest.fixture(scope="session")
def whole(small_data: Path, teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> LogitStore:
    """A sealed store of sixteen short units, made by one undisturbed run."""
    recipe = resolve_data(load_recipe("example", MANY_UNITS), small_data)
    return label_all(recipe, tmp_path_factory.mktemp("whole") / "s", teacher)
