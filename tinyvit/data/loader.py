"""Streams in worker processes: the one place that knows how to run a data set beside the training process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, Protocol

from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from storage import StoreError
from tinyvit.errors import UserError

# What Ctrl-C and torchrun send to every process of a group.
GROUP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stream(Protocol):
    """A picklable description of a stream, which any of `workers` equal processes can read its share of."""

    def read(self, worker: int, workers: int) -> Iterator[Any]:
        """The share of one worker, in order: of all items those at `worker`, `worker + workers` and so on."""
        ...


class CountedStream(Stream, Protocol):
    """A stream that knows beforehand how many items all workers together will read."""

    @property
    def items(self) -> int: ...


class _Relay(IterableDataset[Any]):
    """Runs streams one after another in a DataLoader worker.

    The loader takes turns among the workers: where a stream begins in the turn depends on how many items those before
    it had. Faults travel as values: DataLoader would bury their one line in a traceback.
    """

    def __init__(self, streams: Sequence[Stream], counts: Sequence[int]) -> None:
        self._streams, self._begin = streams, [sum(counts[:n]) for n in range(len(streams))]

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        try:
            for stream, begin in zip(self._streams, self._begin, strict=True):
                yield from stream.read((worker - begin) % workers, workers)
        except (UserError, StoreError, OSError) as fault:
            yield fault


def run_streams(streams: Sequence[CountedStream], workers: int, pin_memory: bool = False) -> Iterator[Iterator[Any]]:
    """Read streams one after another with the same `workers` processes (0: in this one).

    Yields an iterator for each stream, to be read to its end; items come in a reproducible order. The processes go on
    to the next stream while the reader does something else, so that it does not wait where one begins.
    """
    counts = [stream.items for stream in streams]
    items = _items(_loader(_Relay(streams, counts), workers, pin_memory))
    for count in counts:
        yield islice(items, count)


def run_stream(stream: Stream, workers: int, pin_memory: bool = False) -> Iterator[Any]:
    """Read one stream; see `run_streams`."""
    return _items(_loader(_Relay([stream], [0]), workers, pin_memory))


class _Jobs(Dataset[Any]):
    """Does whatever it is asked for; faults travel as values here too."""

    def __init__(self, do: Callable[[Any], Any]) -> None:
        self._do = do

    def __getitem__(self, job: Any) -> Any:
        try:
            return self._do(job)
        except (UserError, StoreError, OSError) as fault:
            return fault


def run_jobs(do: Callable[[Any], Any], jobs: Iterable[Any], workers: int, pin_memory: bool = False) -> Iterator[Any]:
    """What a picklable function makes of each job, in their order, by `workers` processes (0: in this one).

    `jobs` is asked, in this process, a few jobs ahead of what is read.
    """
    return _items(_loader(_Jobs(do), workers, pin_memory, jobs))


def _loader(work: Dataset[Any], workers: int, pin_memory: bool, jobs: Iterable[Any] | None = None) -> DataLoader[Any]:
    """Processes come from a fork server: the parent holds threads (Zarr's, Prefect's) that a plain fork would copy in
    whatever state they are.
    """
    context = None
    if workers:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            ["tinyvit.replay_check", "tinyvit.data.training_views", "tinyvit.data.unit_views"]
        )
        _start_fork_server()
    return DataLoader(
        work,
        sampler=jobs,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=context,
        pin_memory=pin_memory,
        worker_init_fn=partial(_begin, dict(os.environ)),
    )


def _start_fork_server() -> None:
    """Start it deaf to what may be sent to the reader's whole group while data processes begin: it and they inherit
    that these signals are blocked, until `_begin`.
    """
    # It would be started beside the fork server, and that unblocks them.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(environment: dict[str, str], _worker: int) -> None:
    """Make a data process one that acts and ends as a part of the process that reads from it."""
    # A fork server's children have the environment of when it started: credentials may be younger.
    os.environ.update(environment)
    # The reader decides what a signal to its group means, and may want another batch.
    os.setpgid(0, 0)
    for number in GROUP_SIGNALS:
        # Ignoring one discards what was sent meanwhile.
        signal.signal(number, signal.SIG_IGN)
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, GROUP_SIGNALS)
    end_with_parent()
    # multiprocessing's thread that hands tensors over calls this hook, and nothing else here does: a reader that
    # is stopped (Ctrl-C) while it takes a tensor has its own line to print, not a traceback from each worker.
    sys.excepthook = _reader_may_leave


def _reader_may_leave(kind: type[BaseException], fault: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, EOFError | ConnectionError):
        sys.__excepthook__(kind, fault, trace)


def end_with_parent() -> None:
    """End this process when the one that asked for it is gone, even by kill -9.

    torch's own watchdog compares parent ids; a fork server's children have the server as their parent, which in
    turn lives as long as they do: without this, both would stay for ever.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _items(loader: DataLoader[Any]) -> Iterator[Any]:
    for item in loader:
        if isinstance(item, Exception):
            raise item
        yield item


def default_workers(ranks: int = 1) -> int:
    """One process a core beside this one, at most eight; `ranks` on this machine share its cores."""
    return max(1, min(8, (os.cpu_count() or 1) // ranks - 1))
