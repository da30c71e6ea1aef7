"""Streams in worker processes: the one place that knows how to run a data set beside the training process."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from typing import Any, Protocol

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from storage import StoreError
from tinyvit.errors import UserError


class Stream(Protocol):
    """A picklable description of a stream, which any of `workers` equal processes can read its share of."""

    def read(self, worker: int, workers: int) -> Iterator[Any]:
        """The share of one worker, in order."""
        ...


class _Relay(IterableDataset[Any]):
    """Runs a stream in a DataLoader worker. Faults travel as values: DataLoader would bury their one line."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        try:
            yield from self._stream.read(info.id, info.num_workers) if info else self._stream.read(0, 1)
        except (UserError, StoreError, OSError) as fault:
            yield fault


def run_stream(stream: Stream, workers: int, pin_memory: bool = False) -> Iterator[Any]:
    """Read a stream with `workers` processes (0: in this one); items come in a reproducible order.

    Processes come from a fork server: the parent holds threads (Zarr's, Prefect's) that a plain fork would
    copy in whatever state they are.
    """
    context = None
    if workers:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tinyvit.data.training_views", "tinyvit.data.unit_views"])
    loader: DataLoader[Any] = DataLoader(
        _Relay(stream),
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=context,
        pin_memory=pin_memory,
    )
    for item in loader:
        if isinstance(item, Exception):
            raise item
        yield item


def default_workers() -> int:
    """One process a core beside this one, at most eight."""
    return max(1, min(8, (os.cpu_count() or 1) - 1))
