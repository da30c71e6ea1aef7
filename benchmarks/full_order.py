"""The order of an epoch of ImageNet-21k's size on 8 nodes of 8 GPUs: what it takes a process to know its part of it."""

from __future__ import annotations

import json
import multiprocessing
import re
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from benchmarks.confirm import confirm
from benchmarks.full_scale import CLASSES, IMAGES, SHARDS
from tinyvit.cache import CacheFolder
from tinyvit.config import Augment, Decode
from tinyvit.data.index import FORMAT, INDEX_NAME, SAMPLE, ShardIndex
from tinyvit.data.location import ShardLocation
from tinyvit.data.training_views import TrainingViews

NODES, RANKS, WORKERS = 8, 8, 8
BATCH, SIZE = 4096, 224
ROLLUP = Path("/proc/self/smaps_rollup")


def write_index(folder: Path, images: int, shards: int) -> None:
    """An index of so many samples, which lie nowhere."""
    counts = np.full(shards, images // shards)
    counts[: images % shards] += 1
    samples = open_memmap(folder / "index-synthetic.npy", "w+", SAMPLE, (images,))
    samples["key_digest"] = np.arange(images, dtype=np.uint64) << np.uint64(30)
    samples["key_bytes"] = 1
    samples.flush()
    (folder / "index-synthetic.keys").write_bytes(bytes(images))
    described = [
        {
            "name": f"imagenet21k-{number:06d}.tar",
            "samples": count,
            "sha256": f"{number:064x}",
            "stamp": [1 << 29, 0],
            "key_bytes": count,
        }
        for number, count in enumerate(counts.tolist())
    ]
    document = {"format": FORMAT, "files": "index-synthetic", "shards": described}
    (folder / INDEX_NAME).write_text(json.dumps(document))


def measure(folder: Path, images: int = IMAGES, shards: int = SHARDS) -> dict[str, float]:
    """Seconds until the data process of a rank knows which views its first batches have and which shards it needs, and
    MiB that all such processes of a node take for it, with what they share.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_index(folder, images, shards)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        seconds, own, shared = pool.submit(_know, folder).result()
    return {"seconds": seconds, "mib_a_node": own * RANKS * WORKERS + shared}


def _know(folder: Path) -> tuple[float, float, float]:
    """Seconds, and MiB of this process alone and of what it shares with others."""
    before, began = _private_mib(), time.perf_counter()
    cache = CacheFolder(folder / "cache", 1 << 40)
    index = ShardIndex(ShardLocation("https://host/imagenet21k-{000000..002047}.tar"), folder, cache)
    views = TrainingViews(
        index, Augment(), Decode(), SIZE, CLASSES, BATCH, epoch=7, seed=0, labels=True,
        rank=RANKS + 3, world_size=NODES * RANKS, lanes=NODES,
    )  # fmt: skip
    source = views.kept.source_of(views)
    needed = source.stretches()
    for number in range(WORKERS):
        places, _ = source.places(number)
        confirm(len(places) == BATCH // NODES // RANKS, f"a batch has {len(places)} views")
    seconds = time.perf_counter() - began
    confirm(len(needed) > 1, "a lane has one window")
    return seconds, _private_mib() - before, sum(path.stat().st_size for path in folder.glob("index-*")) / (1 << 20)


def _private_mib() -> float:
    """Memory that is this process's alone."""
    kib: list[Any] = re.findall(r"Private_(?:Clean|Dirty):\s+(\d+) kB", ROLLUP.read_text())
    return sum(map(int, kib)) / 1024
