"""Data processes: started beside the process that reads from them, and looked at while it waits."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from multiprocessing import util
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from logitstore import StoreError
from tinyvit.data.fork_server import GROUP_SIGNALS, start_fork_server
from tinyvit.data.handover import receive, send
from tinyvit.errors import ProcessLost, Stopped, UserError

log = logging.getLogger("tinyvit")

# What a data process does: (requests, its number, how many there are) to an item for each request, until there are no
# more.
Make = Callable[[Iterator[Any], int, int], Iterator[Any]]

# Seconds between looks at what else there is while an item is waited for, until the first line says so, and for how
# long it is still waited for when this process was told to stop.
LOOK, WARN, PATIENCE = 0.5, 60.0, 10.0
# And for a process to end by itself, as it then removes what libraries have made for it (named semaphores).
GRACE = 2.0


class Ended:
    """In place of an item: there are no more."""


class Fault:
    """In place of an item: what went wrong. DataLoader would bury its one line in a traceback."""

    def __init__(self, fault: Exception) -> None:
        self.fault = fault


class DataProcess:
    """A process that makes items, and this end of the connection to it.

    It comes from a fork server: the parent holds threads (Zarr's, Prefect's) that a plain fork would copy in whatever
    state they are.
    """

    def __init__(self, make: Make, number: int, count: int) -> None:
        start_fork_server()
        context = multiprocessing.get_context("forkserver")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, make, number, count, dict(os.environ), ending_with_this()), daemon=True
        )
        self._process.start()
        # The only one is now the process's own, so that its end is seen at once.
        theirs.close()

    def ask(self, request: Any) -> None:
        """Ask for an item; it is made while this process does something else."""
        # Of one that has no more, or is gone, one learns by what it left to be taken.
        with suppress(ConnectionError):
            self._connection.send(request)

    def take(self, stop: threading.Event) -> Any:
        """The item of the oldest request; `Ended` where there are no more.

        The fault that the process met; ProcessLost where it is gone; Stopped when `stop` is set and no item comes.
        """
        try:
            self._wait(stop)
            item = receive(self._connection)
        except (EOFError, ConnectionError) as fault:
            raise self._lost() from fault
        if isinstance(item, Fault):
            raise item.fault
        return item

    def _wait(self, stop: threading.Event) -> None:
        began = time.monotonic()
        told, warned = None, WARN
        while not self._connection.poll(LOOK):
            now = time.monotonic()
            if stop.is_set():
                told = told or now
                if now - told > PATIENCE:
                    raise Stopped("told to stop while it waited for data")
            if now - began > warned:
                log.warning(
                    "no data for %d seconds; data process %d is alive, so it is waited for (slow disk or network?)",
                    now - began, self._process.pid,
                )  # fmt: skip
                warned *= 2

    def dismiss(self) -> None:
        """Tell it that no more is wanted; it ends after what it is at."""
        with suppress(ConnectionError):
            self._connection.send(Ended())

    def end(self, deadline: float) -> None:
        """See to it that it has ended, which it should by itself until then; it has nothing that must not be lost."""
        self._process.join(max(0.0, deadline - time.monotonic()))
        self._process.kill()
        self._process.join(GRACE)
        self._connection.close()

    def _lost(self) -> ProcessLost:
        self._process.join(PATIENCE)
        code = self._process.exitcode
        how = f"ended with exit code {code}"
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
            how += " (out of memory?)" if code == -signal.SIGKILL else ""
        return ProcessLost(
            f"data process {self._process.pid} {how}; what was committed or saved stays: run the same command again, "
            f"with fewer data processes (--workers) if memory is short"
        )


def _serve(
    connection: Connection, make: Make, number: int, count: int, environment: dict[str, str], watch: Callable[[], None]
) -> None:
    """The life of a data process."""
    _begin(environment)
    watch()
    items = make(_requests(connection), number, count)
    item: Any = None
    while not isinstance(item, Ended | Fault):
        try:
            item = next(items, Ended())
        except (UserError, StoreError, OSError) as fault:
            item = Fault(fault)
        except Exception:
            item = Fault(RuntimeError(f"in a data process:\n{traceback.format_exc()}"))
        try:
            send(connection, item)
        except ConnectionError:
            # The reader is gone. The thread that watches it clears its folder away and ends this process: it is left
            # the time to.
            time.sleep(GRACE)
            return


def _requests(connection: Connection) -> Iterator[Any]:
    waiting = deque[Any]()
    with suppress(EOFError, ConnectionError):
        while True:
            while not waiting or connection.poll():
                waiting.append(connection.recv())
            if isinstance(waiting[-1], Ended):
                return
            yield waiting.popleft()


def _begin(environment: dict[str, str]) -> None:
    """Make a data process one that acts and ends as a part of the process that reads from it."""
    # A fork server's children have the environment of when it started: credentials may be younger.
    os.environ.update(environment)
    # The reader decides what a signal to its group means, and may want another batch.
    os.setpgid(0, 0)
    for number in GROUP_SIGNALS:
        # Ignoring one discards what was sent meanwhile.
        signal.signal(number, signal.SIG_IGN)
        signal.signal(number, signal.SIG_DFL)
    # The processes share the cores.
    torch.set_num_threads(1)


def ending_with_this() -> Callable[[], None]:
    """What a process calls as it begins, to end when it is told to, and when this one is gone, even by kill -9.

    The fork server is deaf to signals of its group (`start_fork_server`), and so are its children until then.
    A fork server's children have the server as their parent, which in turn lives as long as they do: without this,
    both would stay for ever.
    """
    # Where the fork server listens: the folder is that of the first of processes that started each other.
    folder = None if multiprocessing.parent_process() else util.get_temp_dir()
    return partial(_end_with_parent, folder)


def _end_with_parent(folder: str | None) -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, GROUP_SIGNALS)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
