"""Real components for every test: the example's pictures, the pretrained teacher."""

from __future__ import annotations

import logging
import shutil
import tempfile
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from support import EXAMPLE, MANY_UNITS, SMALL, Bucket, label_all

from storage import LogitStore
from tinyvit.config import Recipe, load_recipe
from tinyvit.teachers import Teacher, load_teacher


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
    return load_recipe("example", SMALL).with_data(small_data)


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
    recipe = load_recipe("example", MANY_UNITS).with_data(small_data)
    return label_all(recipe, tmp_path_factory.mktemp("whole") / "s", teacher)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The endpoint of an S3-compatible server on a free port."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket, and the variables by which its clients find it, for this process and its children."""
    name = f"logits-{uuid.uuid4().hex[:8]}"
    for variable, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(variable, value)
    request = urllib.request.Request(f"{s3_server}/{name}", method="PUT")
    urllib.request.urlopen(request).close()
    return Bucket(s3_server, name)
