"""Jobs, each in a process of its own with a share of the time that is left: what it finds arrives row by row."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

import torch

from benchmarks.gpu.report import Note, Report, Row
from benchmarks.gpu.settings import Settings
from tinyvit.runtime.foreign import first_line

# Seconds for a process to end by itself once its time is over, and again once it was told to.
GRACE = 3.0

Figures = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Clock:
    """When a job has to be done, by time.monotonic(), which all processes of a machine share."""

    ends: float

    @property
    def left(self) -> float:
        """Seconds."""
        return self.ends - time.monotonic()

    def allows(self, seconds: float) -> bool:
        """Whether there is time for something that takes about so long."""
        return self.left > seconds


# What is found, by the settings, the figures of earlier jobs and the clock.
Work = Callable[[Settings, Figures, Clock], Iterator[Row | Note]]


@dataclass(frozen=True)
class Job:
    """Work for a section, with its share of the time: of what is left, against the shares of the jobs after it."""

    section: str
    name: str
    share: float
    work: Work


def run_jobs(jobs: Sequence[Job], settings: Settings, report: Report, seconds: float) -> None:
    """All of them, in order; a fault is a line of its section, and the next one goes on."""
    ends = time.monotonic() + seconds
    for number, job in enumerate(jobs):
        began = time.monotonic()
        left = ends - began
        share = left * job.share / sum(other.share for other in jobs[number:])
        if share <= 0:
            report.add(Note(job.section, f"{job.name}: left out for time"))
            continue
        for found in _found(job, settings, report.figures, share):
            report.add(found)
        report.spent(job.name, time.monotonic() - began)


def _found(job: Job, settings: Settings, figures: Figures, seconds: float) -> Iterator[Row | Note]:
    """What a job finds until it ends, by itself or because its time is over."""
    # A GPU cannot be used in a forked process; without one a fork saves the imports.
    context = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
    ours, theirs = context.Pipe(duplex=False)
    clock = Clock(time.monotonic() + seconds)
    # mypy takes the two contexts for their common base, which has no Process.
    process: Any = context.Process(target=_serve, args=(theirs, job, settings, figures, clock))  # type: ignore[attr-defined]
    process.start()
    theirs.close()
    try:
        while ours.poll(max(0.0, clock.left + GRACE)):
            yield ours.recv()
        yield Note(job.section, f"{job.name}: ended after its {seconds:.0f} s; what it had found by then stands above")
    except EOFError:
        process.join(GRACE)
        if process.exitcode:
            how = f"with exit code {process.exitcode}"
            if process.exitcode < 0:
                how = f"by {signal.Signals(-process.exitcode).name}"
            yield Note(job.section, f"{job.name}: its process ended {how}")
    finally:
        _end(process)


def _end(process: Any) -> None:
    """See to it that a job's process is gone, and what it started."""
    if process.is_alive():
        process.terminate()
        process.join(GRACE)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.join()


def _serve(connection: Connection, job: Job, settings: Settings, figures: Figures, clock: Clock) -> None:
    """The life of a job's process."""
    # A group of its own, so that what it starts can be ended with it.
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, _leave)
    try:
        for found in job.work(settings, figures, clock):
            connection.send(found)
    except Exception as fault:
        connection.send(faulty(job.section, job.name, fault))


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signal.SIGTERM)


def faulty(section: str, name: str, fault: Exception) -> Note:
    """The line that a fault leaves."""
    return Note(section, f"{name}: {one_line(fault)}", "".join(traceback.format_exception(fault)))


def one_line(fault: BaseException) -> str:
    """What went wrong, in a line."""
    return f"{type(fault).__name__}: {first_line(fault)}"
