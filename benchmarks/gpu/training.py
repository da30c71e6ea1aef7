"""How fast a student is trained on batches that lie on the device, beside timm's step and with the live teacher."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.jobs import Clock, Figures, faulty
from benchmarks.gpu.peak import product_rate, training_flops
from benchmarks.gpu.report import Note, Row
from benchmarks.gpu.settings import TARGETS, Settings
from benchmarks.gpu.steps import (
    Measured,
    Ours,
    Steps,
    Timms,
    free_memory,
    in_turns,
    largest_batch,
    network_of,
    resident_batch,
)
from tinyvit.models.teachers import Teacher, load_teacher
from tinyvit.runtime.distributed import default_device

COLUMNS = ("student", "step", "batch", "images/s", "of timm's", "target", "of target", "of peak", "memory, MiB")
LIVE_COLUMNS = ("student", "stored, images/s", "live teacher, images/s", "times", "target")
# What the step that others are compared with is called.
TIMMS = "timm's"
# What compiling may take, seconds, where nothing has been compiled yet.
COMPILING = 20.0


def of_student(student: str) -> partial[Iterator[Row | Note]]:
    """The job of a student."""
    return partial(measure, student)


def measure(student: str, settings: Settings, _figures: Figures, clock: Clock) -> Iterator[Row | Note]:
    """Not compiled and compiled: ours, timm's, ours with the live teacher."""
    table = _Table(student, settings)
    size, memory, limited = largest_batch(settings, student)
    free_memory()
    more = f"{2 * size} do not fit" if limited else "more were not tried"
    yield Note("training", f"{student}: batches of {size}, which take {memory:,} MiB when not compiled; {more}")
    batch = resident_batch(settings, size)
    ours, timms = Ours(settings, student, batch), Timms(settings, student, batch)
    ways: dict[str, Steps] = {"ours": ours, TIMMS: timms}
    for steps in ways.values():
        steps(2)
    # Two rounds: most of the time is for what follows.
    yield from table.rows(in_turns(ways, size, settings, clock, most=2), size, "")
    if not clock.allows(COMPILING):
        yield Note("training", f"{student}: compiled steps were left out for time")
        return
    began = time.monotonic()
    ours.compile(settings.compile)
    timms.compile(settings.compile)
    for steps in ways.values():
        steps(2)
    yield Note("training", f"{student}: compiling ours and timm's took {time.monotonic() - began:.0f} s")
    # First without the teacher, which needs memory and may be missing.
    found = in_turns(ways, size, settings, clock)
    yield from table.rows(found, size, ", compiled")
    yield from _beside_live(student, settings, clock, ours, size)


def _beside_live(student: str, settings: Settings, clock: Clock, ours: Ours, size: int) -> Iterator[Row | Note]:
    """Stored logits and the live teacher, in turns."""
    if TARGETS[student].over_live is None and not clock.allows(COMPILING):
        yield Note("live", f"{student}: left out for time")
        return
    try:
        live = ours.with_teacher(_teacher(settings))
        live(1)
    except Exception as fault:  # also of memory: what stands above is true all the same
        yield faulty("live", student, fault)
        return
    found = in_turns({"stored": ours, "live": live}, size, settings, clock)
    stored, asked, target = found["stored"].images_per_s, found["live"].images_per_s, TARGETS[student].over_live
    yield Row(
        "live",
        (student, f"{stored:,.0f}", f"{asked:,.0f}", f"{stored / asked:.2f}", f"{target:.1f}" if target else ""),
        {
            "student": student,
            "batch": size,
            "stored_images_per_s": stored,
            "live_images_per_s": asked,
            "times": stored / asked,
            "target": target,
        },
    )


def _teacher(settings: Settings) -> Teacher:
    teacher = load_teacher(settings.teacher, default_device(), None, settings.size)
    teacher.try_size(settings.size)
    return teacher


def other_modes(settings: Settings, figures: Figures, clock: Clock) -> Iterator[Row | Note]:
    """The first student compiled in ways that may be faster, at the batch that was found for it."""
    student = settings.students[0]
    known = [row for row in figures["training"] if row["student"] == student]
    if settings.modes and not known:
        yield Note("training", f"{student}, other modes of compiling: no batch is known to fit")
        return
    for mode in settings.modes:
        if not clock.allows(COMPILING):
            yield Note("training", f"{student}, {mode}: left out for time")
            continue
        try:
            yield from _in_mode(settings, student, known[-1]["batch"], mode, clock)
        except Exception as fault:  # the next mode may do
            yield faulty("training", f"{student}, {mode}", fault)


def _in_mode(settings: Settings, student: str, size: int, mode: str, clock: Clock) -> Iterator[Row]:
    # Of the mode before: graphs keep their memory as long as what was compiled is there.
    torch.compiler.reset()
    free_memory()
    ours = Ours(settings, student, resident_batch(settings, size))
    ours.compile({"mode": mode})
    ours(3)
    found = in_turns({"ours": ours}, size, settings, clock)
    yield from _Table(student, settings).rows(found, size, f", {mode}")


class _Table:
    """Rows of the table of training, of one student."""

    def __init__(self, student: str, settings: Settings) -> None:
        self._student = student
        self._flops = training_flops(network_of(settings, student), settings.size)
        self._peak = product_rate(default_device(), settings.matrix)

    def rows(self, found: dict[str, Measured], batch: int, how: str) -> Iterator[Row]:
        """One a way; `how` says how all were computed."""
        target = TARGETS[self._student].images_per_s
        for name, measured in found.items():
            rate = measured.images_per_s
            figures: dict[str, Any] = {
                "student": self._student,
                "step": f"{name}{how}",
                "batch": batch,
                "images_per_s": rate,
                "target_images_per_s": target,
                "rounds": measured.rounds,
                "memory_mib": measured.memory_mib,
                "flops_an_image": self._flops,
                "product_flops_per_s": self._peak,
                "share_of_peak": self._flops * rate / self._peak,
            }
            beside = f"{rate / found[TIMMS].images_per_s:.3f}" if name != TIMMS and TIMMS in found else ""
            cells = (
                self._student, f"{name}{how}", f"{batch:,}", f"{rate:,.0f}", beside, f"{target:,.0f}",
                f"{rate / target:.2f}", f"{figures['share_of_peak']:.3f}", f"{measured.memory_mib:,}",
            )  # fmt: skip
            yield Row("training", cells, figures)
