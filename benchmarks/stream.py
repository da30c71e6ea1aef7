"""`tinyvit bench stream`: images a second from shards that are far away, beside those of a local folder.

The photographs of `bench loader` lie behind a server on loopback that answers after a while and sends so fast a
connection. Compared are ours from the folder, ours from the server with each sample asked for by itself, ours from the
server through a cache that is empty at first, and webdataset's pipeline with timm's transforms from the server; with
one and with two data processes, in rounds that take turns. Rates are from the first batch on, as `bench loader`'s are;
how long that takes is told beside.
"""

from __future__ import annotations

import io
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import webdataset.compat as wds
from PIL import Image
from rich.table import Table
from timm.data import create_transform

from benchmarks import full_order, full_scale
from benchmarks.far_server import FarServer
from benchmarks.loader import BATCH, CLASSES, PER_SHARD, PHOTOGRAPHS, SIZE
from benchmarks.photographs import write_photographs
from benchmarks.timm_way import timm_settings
from tinyvit.cache import open_cache
from tinyvit.config import Augment, Decode
from tinyvit.data.index import ShardIndex, index_shards
from tinyvit.data.loader import run_streams
from tinyvit.data.training_views import Replayed, TrainingViews
from tinyvit.runtime.progress import Progress

ROUNDS = 3
WORKERS = (1, 2)
SEVERAL = 4
# So many ranks share the machine where requests and bytes are counted.
RANKS = 4
CACHE_BYTES = 1 << 30
WAYS = {
    "local": "ours, a local folder",
    "direct": "ours, each sample asked for by itself",
    "remote": "ours, through an empty cache",
    "webdataset": "webdataset's pipeline with timm's transforms",
    "local_several": f"ours, a local folder, {SEVERAL} views a reading",
    "remote_several": f"ours, through an empty cache, {SEVERAL} views a reading",
}


def measure(folder: Path, delay: float, rate: float, progress: Progress) -> dict[str, Any]:
    """Rates, times to the first batch, requests and bytes, by number of data processes.

    `delay` in seconds, `rate` in bytes a second and connection.
    """
    write_photographs(folder / "data", PHOTOGRAPHS, PER_SHARD, seed=0)
    local, augment = index_shards(folder / "data", progress), Augment()
    found: dict[str, Any] = {"delay_s": delay, "bytes_per_s": rate, "data_bytes": _bytes(local)}
    with FarServer(folder / "data", delay, rate) as server:
        far = index_shards(f"{server.url}/{{{','.join(local.table.name)}}}", progress)
        ways: dict[str, Callable[[int, int], Iterator[Any]]] = {
            "local": lambda seed, workers: _read(_views(local, augment, seed), workers),
            "direct": lambda seed, workers: _read(_views(far, augment, seed), workers),
            "remote": lambda seed, workers: _read(_views(_cold(far, folder), augment, seed), workers),
            "webdataset": lambda seed, workers: _webdataset(server.url, local, augment, seed, workers),
            "local_several": lambda seed, workers: _read(_views(local, augment, seed, SEVERAL), workers),
            "remote_several": lambda seed, workers: _read(_views(_cold(far, folder), augment, seed, SEVERAL), workers),
        }
        with progress.task("stream", len(ways) * len(WORKERS) * ROUNDS, "runs") as bar:
            for workers in WORKERS:
                runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
                for seed in range(ROUNDS):
                    for way, read in ways.items():
                        runs[way].append(_timed(read(seed, workers), server))
                        bar.advance(1)
                found[f"workers_{workers}"] = {
                    f"{way}_{figure}": statistics.median(run[figure] for run in several)
                    for way, several in runs.items()
                    for figure in several[0]
                }
        server.requests.value = server.sent.value = 0
        _together(_views(_cold(far, folder), augment, 0))
        found["ranks"] = {"ranks": RANKS, "requests": server.requests.value, "bytes": server.sent.value}
    found["order"] = full_order.measure(folder / "order")
    return found


def _bytes(index: ShardIndex) -> int:
    return sum(size for size, _ in index.stamps.values())


def _views(index: ShardIndex, augment: Augment, seed: int, several: int = 1) -> list[TrainingViews]:
    """The parts of a reading that gives so many views of each image."""
    first = TrainingViews(
        index, augment, Decode(), SIZE, CLASSES, BATCH, epoch=seed * several, seed=0, labels=True,
        replayed=tuple(Replayed(seed * several + view, 0, None) for view in range(several)),
    )  # fmt: skip
    return [replace(first, part=part) for part in range(several)]


def _read(views: list[TrainingViews], workers: int) -> Iterator[Any]:
    for batches in run_streams(views, workers):
        yield from batches


def _cold(index: ShardIndex, folder: Path) -> ShardIndex:
    """The shards read through a cache that is empty."""
    shutil.rmtree(folder / "cache", ignore_errors=True)
    return index.through(open_cache(folder / "cache", CACHE_BYTES))


def _together(views: list[TrainingViews]) -> None:
    """Read an epoch by several ranks on this machine, at the same time."""
    ranks = [[replace(part, rank=rank, world_size=RANKS) for part in views] for rank in range(RANKS)]
    with ThreadPoolExecutor(RANKS) as pool:
        for _ in pool.map(lambda rank: [len(batch) for batch in _read(rank, 1)], ranks):
            pass


def _webdataset(url: str, index: ShardIndex, augment: Augment, seed: int, workers: int) -> Iterator[Any]:
    transform = create_transform(SIZE, is_training=True, **timm_settings(augment))

    def image(content: bytes) -> torch.Tensor:
        made: torch.Tensor = transform(Image.open(io.BytesIO(content)).convert("RGB"))
        return made

    shards = [f"{url}/{name}" for name in index.table.name]
    data = wds.WebDataset(shards, shardshuffle=len(shards), seed=seed, empty_check=False)
    samples = data.shuffle(PER_SHARD).to_tuple("jpg", "cls").map_tuple(image, int).batched(BATCH)
    return iter(wds.WebLoader(samples, batch_size=None, num_workers=workers))


def _timed(batches: Iterable[Any], server: FarServer) -> dict[str, float]:
    server.requests.value = server.sent.value = 0
    began, images, first = time.perf_counter(), 0, 0.0
    for batch in batches:
        if not first:
            first = time.perf_counter()
            continue
        images += len(batch[0]) if isinstance(batch, (tuple, list)) else len(batch)
    return {
        "images_per_s": images / (time.perf_counter() - first),
        "first_batch_s": first - began,
        "requests": server.requests.value,
        "bytes": server.sent.value,
    }


def table(found: dict[str, Any]) -> Table:
    """What was measured, for a terminal."""
    made = Table("images/s", *(f"{n} workers" for n in WORKERS), "first batch, s", "requests", "bytes / data")
    for line in _lines(found):
        made.add_row(*line)
    return made


def markdown(found: dict[str, Any]) -> str:
    """What was measured, as tables of a results file."""
    lines = [
        f"| images/s | {' | '.join(f'{n} workers' for n in WORKERS)} | first batch, s | requests | bytes / data |",
        "| --- |" + " --- |" * (len(WORKERS) + 3),
        *(f"| {' | '.join(line)} |" for line in _lines(found)),
    ]
    for name, one, two in (
        ("remote / local", "remote", "local"),
        ("remote / webdataset", "remote", "webdataset"),
        (f"{SEVERAL} views a reading / 1", "remote_several", "remote"),
    ):
        ratios = [found[f"workers_{n}"] for n in WORKERS]
        shown = [f"{rates[f'{one}_images_per_s'] / rates[f'{two}_images_per_s']:.2f}" for rates in ratios]
        lines.append(f"| {name} | {' | '.join(shown)} | | | |")
    ranks = found["ranks"]
    share = ranks["bytes"] / found["data_bytes"]
    lines.append(f"| {ranks['ranks']} ranks of one node | | | | {ranks['requests']:.0f} | {share:.2f} |")
    order = found["order"]
    lines += [
        "",
        f"The order of {full_scale.IMAGES:,} images in {full_scale.SHARDS:,} shards, of {full_order.NODES} nodes of "
        f"{full_order.RANKS} ranks with {full_order.WORKERS} data processes each: {order['seconds']:.2f} s until a "
        f"process knows its part, {order['mib_a_node']:.0f} MiB a node.",
    ]
    return "\n".join(lines) + "\n"


def _lines(found: dict[str, Any]) -> list[list[str]]:
    columns = [found[f"workers_{n}"] for n in WORKERS]
    most = columns[-1]
    return [
        [
            words,
            *(f"{column[f'{way}_images_per_s']:,.0f}" for column in columns),
            f"{most[f'{way}_first_batch_s']:.1f}",
            f"{most[f'{way}_requests']:,.0f}",
            f"{most[f'{way}_bytes'] / found['data_bytes']:.2f}",
        ]
        for way, words in WAYS.items()
    ]
