"""Streams in worker processes: the one place that knows how to run a data set beside the training process."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice, repeat
from threading import Event
from typing import Any, Protocol

import torch

from tinyvit.data.processes import GRACE, DataProcess, Ended, Make

# So many items are asked of each process ahead of what is read.
AHEAD = 2


class Stream(Protocol):
    """A picklable description of a stream, which any of `workers` equal processes can read its share of."""

    def read(self, worker: int, workers: int) -> Iterator[Any]:
        """The share of one worker, in order: of all items those at `worker`, `worker + workers` and so on."""
        ...


class CountedStream(Stream, Protocol):
    """A stream that knows beforehand how many items all workers together will read."""

    @property
    def items(self) -> int: ...


def run_streams(
    streams: Sequence[CountedStream], workers: int, pin_memory: bool = False, stop: Event | None = None
) -> Iterator[Iterator[Any]]:
    """Read streams one after another with the same `workers` processes (0: in this one).

    Yields an iterator for each stream, to be read to its end; items come in a reproducible order. The processes go on
    to the next stream while the reader does something else, so that it does not wait where one begins. The fault that
    a process met is raised here, ProcessLost where one is gone, and Stopped where `stop` is set and no item comes.
    """
    counts = [stream.items for stream in streams]
    items = _items(partial(_relay, streams, counts), repeat(None), workers, pin_memory, stop)
    for count in counts:
        yield islice(items, count)


def run_stream(stream: Stream, workers: int, pin_memory: bool = False) -> Iterator[Any]:
    """Read one stream; see `run_streams`."""
    return _items(partial(_relay, [stream], [0]), repeat(None), workers, pin_memory)


def run_jobs(
    do: Callable[[Any], Any],
    jobs: Iterable[Any],
    workers: int,
    pin_memory: bool = False,
    stop: Event | None = None,
) -> Iterator[Any]:
    """What a picklable function makes of each job, in their order, by `workers` processes (0: in this one).

    `jobs` is asked, in this process, a few jobs ahead of what is read. Faults are raised as by `run_streams`.
    """
    return _items(partial(_do, do), jobs, workers, pin_memory, stop)


def _relay(
    streams: Sequence[Stream], counts: Sequence[int], requests: Iterator[Any], worker: int, workers: int
) -> Iterator[Any]:
    """One worker's shares of streams that are read one after another, an item a request.

    The workers take turns: where a stream begins in the turn depends on how many items those before it had.
    """
    shares = (
        item
        for number, stream in enumerate(streams)
        for item in stream.read((worker - sum(counts[:number])) % workers, workers)
    )
    return (item for _, item in zip(requests, shares, strict=False))


def _do(do: Callable[[Any], Any], jobs: Iterator[Any], _worker: int, _workers: int) -> Iterator[Any]:
    return map(do, jobs)


def _items(make: Make, jobs: Iterable[Any], workers: int, pin_memory: bool, stop: Event | None = None) -> Iterator[Any]:
    """Items in order, each worker having its turn."""
    if not workers:
        items = make(iter(jobs), 0, 1)
        yield from map(pinned, items) if pin_memory else items
        return
    team: list[DataProcess] = []
    try:
        for number in range(workers):
            team.append(DataProcess(make, number, workers))
        items = _turns(team, iter(jobs), stop or Event())
        yield from _ahead(items) if pin_memory else items
    finally:
        for process in team:
            process.dismiss()
        deadline = time.monotonic() + GRACE
        for process in team:
            process.end(deadline)


def _turns(team: list[DataProcess], jobs: Iterator[Any], stop: Event) -> Iterator[Any]:
    """What the processes make of the jobs. One that has no more loses its turn."""
    turns, asked = deque(team), deque[DataProcess]()

    def ask() -> None:
        for job in islice(jobs, 1 if turns else 0):
            turns[0].ask(job)
            asked.append(turns[0])
            turns.rotate(-1)

    for _ in range(AHEAD * len(team)):
        ask()
    while asked:
        process = asked.popleft()
        item = process.take(stop) if process in turns else Ended()
        if isinstance(item, Ended):
            if process in turns:
                turns.remove(process)
        else:
            yield item
        ask()


def _ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The items in page-locked memory: a thread takes and copies one ahead of what is read."""
    begin = partial(torch.cuda.set_device, torch.cuda.current_device()) if torch.cuda.is_available() else None
    thread, over = ThreadPoolExecutor(1, initializer=begin), Ended()

    def take() -> Any:
        return pinned(next(items, over))

    try:
        coming = thread.submit(take)
        while (item := coming.result()) is not over:
            coming = thread.submit(take)
            yield item
    finally:
        # It may be waiting for a data process, which is ended next.
        thread.shutdown(wait=False)


def pinned(item: Any) -> Any:
    """An item in page-locked memory, from which it travels to a GPU that computes meanwhile."""
    if isinstance(item, tuple) and hasattr(item, "_fields"):
        return type(item)(*map(pinned, item))
    if isinstance(item, tuple | list):
        return type(item)(map(pinned, item))
    return item.pin_memory() if hasattr(item, "pin_memory") else item


def default_workers(ranks: int = 1) -> int:
    """One process a core beside this one, at most eight; `ranks` on this machine share its cores."""
    return max(1, min(8, (os.cpu_count() or 1) // ranks - 1))
