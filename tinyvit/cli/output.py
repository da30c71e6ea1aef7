"""What every command does alike: one JSON document or a readable table on stdout, faults as one line."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Event
from types import FrameType
from typing import Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from logitstore import StoreError
from tinyvit.errors import ProcessLost, Stopped, UserError

# Set, a fault is raised as it is.
TRACEBACK = "TINYVIT_TRACEBACK"
DISK_FAULTS = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EACCES: "permission denied; choose a folder that can be written",
    errno.EPERM: "not permitted; choose a folder that can be written",
    errno.EROFS: "the file system is read-only; choose a folder that can be written",
    errno.ENOTDIR: "a part of the path is a file, not a folder; mend the path",
    errno.ENOENT: "there is no such file or folder; mend the path",
}


# Of the faults of a data set there may be thousands.
SHOWN = 20


# Seconds in which signals say the same once more: of a wish to stop a process may be told by the terminal or Prefect,
# which tell a whole group, and by torchrun, which passes on what it was told.
ONE_WISH = 3.0


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM, by its number. Not KeyboardInterrupt, which typer would answer by itself, without a word."""


def _interrupt(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(number)


@contextmanager
def stopping_by_signal() -> Iterator[Event]:
    """An event that SIGTERM or a first Ctrl-C sets: long work saves and ends at its next step; a later one ends now."""
    stop, told = Event(), 0.0

    def ask(number: int, _frame: FrameType | None) -> None:
        nonlocal told
        now = time.monotonic()
        if not stop.is_set():
            told = now
            stop.set()
        elif now - told > ONE_WISH:
            raise Interrupted(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def one_line_faults() -> Iterator[None]:
    """Turn what a user can cause into one line on stderr and exit code 2; Ctrl-C into 130, SIGTERM into 143.

    With TINYVIT_TRACEBACK=1 such a fault is raised instead, with all that led to it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        yield
    except (UserError, StoreError, ProcessLost) as fault:
        if os.environ.get(TRACEBACK):
            raise
        _fail(str(fault))
    except OSError as fault:
        if fault.errno not in DISK_FAULTS or os.environ.get(TRACEBACK):
            raise
        _fail(f"{fault.filename or 'the output'}: {DISK_FAULTS[fault.errno]}")
    except Stopped as line:
        typer.echo(f"tinyvit: {line}", err=True)
        sys.exit(128 + signal.SIGTERM)
    except Interrupted as interrupted:
        typer.echo("tinyvit: interrupted; what was committed stays, the same command goes on from there", err=True)
        sys.exit(128 + interrupted.args[0])


def _fail(line: str) -> None:
    typer.echo(f"tinyvit: {' '.join(line.split())}", err=True)
    sys.exit(2)


def log_to_stderr() -> None:
    """Show the package's log lines on stderr."""
    handler = RichHandler(console=Console(stderr=True), show_path=False, show_level=False, markup=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("tinyvit").setLevel(logging.INFO)


def show(document: Mapping[str, Any], as_json: bool, title: str = "") -> None:
    """Print a document: as JSON, or as a table of its plain entries, nested ones by dotted name."""
    if as_json:
        typer.echo(json.dumps(document, indent=2))
        return
    table = Table(title=title or None, title_justify="left", show_header=False, box=None)
    for name, value in _flat(document):
        table.add_row(name.replace("_", " "), value)
    Console().print(table)


def _flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, float):
            yield prefix + name, f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
        elif isinstance(value, int) and not isinstance(value, bool) and "seed" not in name:
            yield prefix + name, f"{value:,}"
        else:
            yield prefix + name, _lines(value) if isinstance(value, list) else str(value)


def _lines(entries: list[Any]) -> str:
    """Short entries side by side, sentences one below the other, and of many the first."""
    texts = [str(entry) for entry in entries]
    if sum(map(len, texts)) < 80:
        return ", ".join(texts) or "none"
    more = [f"... and {len(texts) - SHOWN:,} more; --json has them all"] if len(texts) > SHOWN else []
    return "\n".join([*texts[:SHOWN], *more])
