"""Real components for every test: the example's images, the pretrained teacher."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

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
    parser.addoption("--most", type=float, help="leave out tests that take more seconds, by tests/durations.txt")
    parser.addoption("--record-durations", action="store_true", help="write tests/durations.txt anew")


DURATIONS = Path(__file__).with_name("durations.txt")
# Of a run with --most no test may take so many times as long, and so many seconds: it is not in the file yet, or has
# become slow. A fixture may, for tests share it.
LENIENCE, AT_LEAST = 4, 20.0
# What was set up for the test under way, and the seconds of it.
SET_UP = pytest.StashKey[dict[str, float]]()


def recorded_durations() -> dict[str, float]:
    """Seconds of tests and of fixtures, by their names; what takes less than half of one is not there."""
    lines = (line.split(" ", 1) for line in DURATIONS.read_text().splitlines())
    return {name: float(seconds) for seconds, name in lines}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes too long, or needs what takes too long."""
    most = config.getoption("--most")
    if most is None:
        return
    took = recorded_durations()
    slow = [name.rpartition("::") for name, seconds in took.items() if seconds > LENIENCE * most]

    def too_long(item: pytest.Item) -> bool:
        names = getattr(item, "fixturenames", ())
        needed = any(fixture in names and item.nodeid.startswith(place) for place, _, fixture in slow)
        return needed or took.get(item.nodeid, 0) > most

    left_out = {item for item in items if too_long(item)}
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Measure it, without those that it needs itself."""
    began = time.perf_counter()
    value = yield
    name = f"{fixturedef.baseid}::{fixturedef.argname}"
    request.config.stash.setdefault(SET_UP, {})[name] = time.perf_counter() - began
    return value


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Fail a test that makes a short run long."""
    report, most = (yield), item.config.getoption("--most")
    if call.when == "setup":
        report.set_up = dict(item.config.stash.get(SET_UP, {}))
        item.config.stash[SET_UP] = {}
    if most and report.passed and call.when == "call" and call.duration > max(AT_LEAST, LENIENCE * most):
        report.outcome = "failed"
        report.longrepr = (
            f"{item.nodeid} took {call.duration:.1f} s in a run of tests of at most {most:g} s: make it faster, or "
            f"let pytest --record-durations of all tests write down that it is slow"
        )
    return report


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
    if config.getoption("--record-durations"):
        # Also of those that failed: not in the file, a slow one would be taken for a fast one.
        ran = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
        took = {report.nodeid: report.duration for report in ran if report.when == "call"}
        for report in (report for kind in terminalreporter.stats.values() for report in kind):
            for fixture, seconds in getattr(report, "set_up", {}).items():
                took[fixture] = max(seconds, took.get(fixture, 0))
        lines = [f"{seconds:.1f} {name}\n" for name, seconds in sorted(took.items()) if seconds >= 0.5]
        DURATIONS.write_text("".join(lines))


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
