"""Shards behind a web server that is far away and fails: fetched whole, once a machine, checked, and kept."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from streams import digests, stream

from benchmarks.far_server import FarServer
from logitstore import LogitStore
from tinyvit.cache import CacheFolder, open_cache
from tinyvit.config import Recipe
from tinyvit.data import order
from tinyvit.data.index import ShardIndex, index_shards
from tinyvit.data.loader import run_stream
from tinyvit.data.training_views import TrainingViews
from tinyvit.errors import UserError
from tinyvit.runtime.progress import LogProgress

NAMES = "train-{000000..000001}.tar"


@pytest.fixture
def far(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FarServer]:
    """The small data behind a server."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    folder = tmp_path / "served"
    shutil.copytree(small_data / "train", folder)
    with FarServer(folder, delay=0.01) as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> CacheFolder:
    return open_cache(tmp_path / "cache", 1 << 30)


@pytest.fixture
def index(far: FarServer, cache: CacheFolder) -> ShardIndex:
    """Of the shards behind the server, read through the cache; nothing of it counts as asked for."""
    found = index_shards(f"{far.url}/{NAMES}", LogProgress()).through(cache)
    far.requests.value = far.sent.value = 0
    return found


def files(cache: CacheFolder) -> set[str]:
    return {path.suffix for path in cache.path.iterdir()} - {""}


def test_a_shard_is_fetched_whole_and_once(index: ShardIndex, far: FarServer, small_data: Path) -> None:
    local = index_shards(small_data / "train", LogProgress())
    for _ in range(2):
        for shard in range(2):
            assert list(index.shard(shard).read_all()) == list(local.shard(shard).read_all())
    assert far.requests.value == 2
    assert far.sent.value == sum(path.stat().st_size for path in far.folder.glob("*.tar"))


def test_samples_that_lie_side_by_side_are_one_request(index: ShardIndex, far: FarServer, small_data: Path) -> None:
    local, without = index_shards(small_data / "train", LogProgress()).shard(0), index.through(None).shard(0)
    for slots, requests in ((range(64), 1), ([7], 1), ([3, 4, 5, 9, 8, 10, 20], 5), ([5, 5], 2), ([], 0)):
        far.requests.value = 0
        assert without.read(slots) == local.read(slots)
        assert far.requests.value == requests


@pytest.mark.parametrize("fault", ["refuse", "cut"])
def test_a_server_that_fails_for_a_while_is_asked_again(index: ShardIndex, far: FarServer, fault: str) -> None:
    getattr(far, fault).value = 3
    assert len(index.shard(0).read([3])) == 1
    assert far.requests.value == 4


def test_a_shard_that_was_changed_is_not_used_and_not_kept(
    index: ShardIndex, far: FarServer, cache: CacheFolder
) -> None:
    path = far.folder / "train-000001.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[:700] + bytes([whole[700] ^ 1]) + whole[701:])
    with pytest.raises(UserError, match=r"train-000001.tar is not the shard that was indexed \(its SHA-256 is another"):
        index.shard(1).read([3])
    path.write_bytes(whole[:-1024])
    with pytest.raises(UserError, match=r"train-000001.tar was cut short or removed after it was indexed"):
        index.shard(1).read([3])
    assert files(cache) == set()
    path.write_bytes(whole)
    assert len(index.shard(1).read([3])) == 1


def epoch(recipe: Recipe, store: LogitStore | None, index: ShardIndex, ranks: int, workers: int) -> list[list[int]]:
    """The views of an epoch, step by step, as ranks on one machine read them at the same time."""
    views = replace(stream(recipe, store, batch_size=48, world_size=ranks, labels=not store), index=index)
    if store:
        views = replace(views, row_cache=index.cache)

    def read(rank: TrainingViews) -> list[list[int]]:
        return digests(list(run_stream(rank, workers)))

    with ThreadPoolExecutor(ranks) as pool:
        found = list(pool.map(read, [replace(views, rank=rank) for rank in range(ranks)]))
    return [list(itertools.chain(*step)) for step in zip(*found, strict=True)]


def test_ranks_and_workers_of_a_machine_fetch_a_shard_once_for_all_epochs(
    small_recipe: Recipe, small_data: Path, index: ShardIndex, far: FarServer
) -> None:
    wanted = epoch(small_recipe, None, index_shards(small_data / "train", LogProgress()), 1, 0)
    for _ in range(2):
        assert epoch(small_recipe, None, index, 2, 2) == wanted
    assert far.requests.value == 2


def test_rows_are_read_once_a_machine(
    small_recipe: Recipe, small_store: LogitStore, index: ShardIndex, tmp_path: Path
) -> None:
    shutil.copytree(small_store.location, tmp_path / "store")
    wanted = epoch(small_recipe, small_store, index, 1, 0)
    with FarServer(tmp_path / "store") as server:
        store = LogitStore.open(server.url)
        assert store.samples == (250, 250)
        opened = server.requests.value
        assert epoch(small_recipe, store, index.through(open_cache(tmp_path / "one", 1 << 30)), 1, 0) == wanted
        alone = server.requests.value - opened
        assert epoch(small_recipe, store, index.through(open_cache(tmp_path / "four", 1 << 30)), 2, 2) == wanted
        together = server.requests.value - opened - alone
        # Each process opens the store and looks how many samples there are; the rows are read by one of them.
        assert together - 4 * opened == alone - opened
        again = server.requests.value
        assert epoch(small_recipe, store, index.through(open_cache(tmp_path / "four", 1 << 30)), 2, 2) == wanted
        assert server.requests.value - again == 4 * opened


def test_a_cache_that_holds_what_is_shuffled_together_is_enough(
    small_recipe: Recipe, small_data: Path, index: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [path.stat().st_size for path in (small_data / "train").glob("*.tar")]
    with pytest.raises(UserError, match=r"are shuffled together, and the cache .* may have .*; raise data\.cache_s"):
        epoch(small_recipe, None, index.through(open_cache(tmp_path / "small", max(sizes))), 1, 0)
    # Windows of one shard each.
    monkeypatch.setattr(order, "WINDOW", 250)
    small = open_cache(tmp_path / "small", max(sizes))
    wanted = epoch(small_recipe, None, index_shards(small_data / "train", LogProgress()), 1, 0)
    assert epoch(small_recipe, None, index.through(small), 1, 0) == wanted
    assert sum(path.stat().st_size for path in small.path.iterdir()) <= max(sizes)
