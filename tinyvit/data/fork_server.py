"""The fork server, of which data processes come.

It imports what they need, which takes seconds: a command that will want them starts it first of all, so that it is at
it while the command imports the same. Nothing is imported here but Python's own.
"""

from __future__ import annotations

import multiprocessing
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker

from tinyvit.errors import UserError

# What Ctrl-C and torchrun send to every process of a group.
GROUP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
NEEDED = ["tinyvit.data.training_views", "tinyvit.data.unit_views"]


def start_fork_server() -> None:
    """Start it, unless it is there, and do not wait for it.

    It is deaf to what may be sent to the reader's whole group while data processes begin: it and they inherit that
    these signals are blocked, until each of them is ready (`ending_with_this`).
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(NEEDED)
    # It would be started beside the fork server, and that unblocks them.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
    try:
        with sockets_in_tmpdir():
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def sockets_in_tmpdir() -> Iterator[None]:
    """UserError for a temporary folder whose path leaves no room for the fork server's socket, which stands in it."""
    try:
        yield
    except OSError as fault:
        # Raised by Python before it asks the system: there is no number to know it by.
        if "AF_UNIX path too long" not in str(fault):
            raise
        raise UserError(
            f"the temporary folder {tempfile.gettempdir()} has too long a path for a socket in it (107 bytes with its "
            f"name); set TMPDIR to a shorter one"
        ) from fault
