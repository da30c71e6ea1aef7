"""Progress of long work: a bar on a terminal, a log line now and then everywhere else."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

log = logging.getLogger("tinyvit")

LOG_SECONDS = 15.0


class Bar(Protocol):
    """One piece of work under way."""

    def advance(self, amount: float, note: str = "") -> None:
        """`amount` more of the total is done; `note` is shown beside the rate."""


class Progress(Protocol):
    """Where work reports how far it is."""

    @contextmanager
    def task(self, name: str, total: float, unit: str) -> Iterator[Bar]:
        """Work of a known size, in `unit`s."""
        ...


class _Meter:
    """Rate since the work began."""

    def __init__(self, name: str, total: float, unit: str) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done, self.began = 0.0, time.monotonic()

    def step(self, amount: float) -> str:
        self.done += amount
        rate = self.done / max(time.monotonic() - self.began, 1e-9)
        if self.unit == "B":
            return f"{decimal(int(rate))}/s"
        return f"{rate:,.0f} {self.unit}/s" if rate >= 10 else f"{rate:.2g} {self.unit}/s"


class TerminalProgress:
    """A bar with rate and time left, on stderr."""

    @contextmanager
    def task(self, name: str, total: float, unit: str) -> Iterator[Bar]:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description:<10}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with RichProgress(*columns, console=Console(stderr=True)) as rich:
            task = rich.add_task(name, total=total, rate="", note="")
            yield _TerminalBar(rich, task, _Meter(name, total, unit))


class _TerminalBar:
    def __init__(self, rich: RichProgress, task: TaskID, meter: _Meter) -> None:
        self._rich, self._task, self._meter = rich, task, meter

    def advance(self, amount: float, note: str = "") -> None:
        self._rich.update(self._task, advance=amount, rate=self._meter.step(amount), note=note)


class LogProgress:
    """A line in the log every quarter of a minute and one at the end: for workers, pipes and files."""

    @contextmanager
    def task(self, name: str, total: float, unit: str) -> Iterator[Bar]:
        bar = _LogBar(_Meter(name, total, unit))
        yield bar
        bar.finish()


class _LogBar:
    def __init__(self, meter: _Meter) -> None:
        self._meter, self._said, self._last = meter, meter.began, ""

    def advance(self, amount: float, note: str = "") -> None:
        rate, now = self._meter.step(amount), time.monotonic()
        left = (now - self._meter.began) * (self._meter.total / max(self._meter.done, 1e-9) - 1)
        self._last = f"{rate} {note}".rstrip()
        if now - self._said >= LOG_SECONDS:
            self._said = now
            share = 100 * self._meter.done / self._meter.total
            log.info("%s: %.0f %%, %s, %.0f s left", self._meter.name, share, self._last, left)

    def finish(self) -> None:
        seconds = time.monotonic() - self._meter.began
        log.info("%s: done in %.1f s, %s", self._meter.name, seconds, self._last)


class SilentProgress:
    """Nothing: for the processes beside the one that reports."""

    @contextmanager
    def task(self, name: str, total: float, unit: str) -> Iterator[Bar]:
        yield self

    def advance(self, amount: float, note: str = "") -> None:
        """Nothing."""


def default_progress() -> Progress:
    """A bar where stderr is a terminal, log lines elsewhere."""
    return TerminalProgress() if sys.stderr.isatty() else LogProgress()
