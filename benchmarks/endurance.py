"""`tinyvit bench endurance`: loading for minutes on end, to see that nothing hangs and that memory does not grow."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.far_server import FarServer
from logitstore import LogitStore
from tinyvit.cache import open_cache
from tinyvit.config import Augment, Decode
from tinyvit.data.index import ShardIndex, index_shards
from tinyvit.data.loader import run_streams
from tinyvit.data.training_views import Replayed, TrainingViews
from tinyvit.runtime.progress import Progress

SIZE = 224
BATCH = 50
CACHE_BYTES = 1 << 30
# More epochs than any run of minutes needs; each is a few numbers.
EPOCHS = 10_000
LOOKS = 10


def endure_far(
    folder: Path, index: ShardIndex, minutes: float, workers: int, progress: Progress, delay: float, rate: float
) -> dict[str, Any]:
    """As `endure`, of the same shards and store behind a server that answers after `delay` s and sends `rate` bytes a
    second on each connection, through a cache; what was asked for, and what the cache holds in the end.
    """
    cache = open_cache(folder / "cache", CACHE_BYTES)
    with FarServer(folder, delay, rate) as server:
        far = index_shards(f"{server.url}/data/{{{','.join(index.table.name)}}}", progress).through(cache)
        server.requests.value = server.sent.value = 0
        found = endure(folder, far, minutes, workers, progress, f"{server.url}/store")
        asked = {"requests": server.requests.value, "sent_mib": round(server.sent.value / (1 << 20))}
    return found | asked | {"cache_mib": round(cache.held / (1 << 20))}


def endure(
    folder: Path, index: ShardIndex, minutes: float, workers: int, progress: Progress, store_at: str | None = None
) -> dict[str, Any]:
    """Join and load epoch after epoch for so long; memory of this process and all it started, ten times in between.

    A batch that takes longer than a minute is a hang: the longest wait is told.
    """
    store = LogitStore.open(store_at or folder / "store")
    first = TrainingViews(
        index, Augment(), Decode(), SIZE, store.spec.num_classes, BATCH, epoch=0, seed=0,
        replayed=(Replayed(0, store.spec.run_seed, store.location),), row_cache=index.cache,
    )  # fmt: skip
    epochs = [replace(first, epoch=epoch) for epoch in range(EPOCHS)]
    mark, began = time.monotonic(), 0.0
    images, done, longest, memory = 0, 0.0, 0.0, list[float]()
    with progress.task("load", minutes * 60, "s") as bar:
        for batches in run_streams(epochs, workers):
            for batch in batches:
                longest, mark = max(longest, time.monotonic() - mark), time.monotonic()
                if not memory:
                    # By now the data processes are there: their start is no loading.
                    began, memory = mark, [memory_mib()]
                    continue
                images += len(batch)
                bar.advance(mark - began - done)
                done = mark - began
                if done >= minutes * 60 * len(memory) / LOOKS:
                    memory.append(memory_mib())
            if done >= minutes * 60:
                break
    return {
        "minutes": done / 60,
        "workers": workers,
        "images": images,
        "images_per_s": images / done,
        "longest_wait_s": longest,
        "memory_mib": [round(value) for value in memory],
        "peak_mib": round(max(memory)),
    }


def memory_mib() -> float:
    """Memory of this process and its descendants, shared pages counted once (PSS of /proc)."""
    found = 0
    for process in _descendants(os.getpid()):
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            # It has ended meanwhile.
            continue
        found += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return found / 1024


def _descendants(process: int) -> Iterator[int]:
    yield process
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from _descendants(int(child))


def table(found: dict[str, Any]) -> Table:
    """What was measured, for a terminal."""
    made = Table("after", "memory, MiB", title_justify="left")
    for look, value in enumerate(found["memory_mib"]):
        made.add_row(f"{found['minutes'] * look / LOOKS:.1f} min", f"{value:,}")
    made.caption = (
        f"{found['images']:,} images, {found['images_per_s']:,.0f}/s with {found['workers']} workers; "
        f"longest wait for a batch {found['longest_wait_s']:.1f} s; peak {found['peak_mib']:,} MiB"
    )
    if "requests" in found:
        made.caption += (
            f"; {found['requests']:,} requests, {found['sent_mib']:,} MiB, of which the cache holds "
            f"{found['cache_mib']:,} MiB"
        )
    return made
