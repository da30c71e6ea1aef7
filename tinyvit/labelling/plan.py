"""What labelling will take, before it is begun: units, objects, bytes, hours.

Counts are exact. Speed is what a pilot measured (`measure`: the real teacher on the real images, for a minute) or
what the caller says; bytes a row are a pilot's, or an estimate from the number of classes that is right for logits
that are spread out and too high for a teacher that is sure.
"""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from logitstore import Claims, verify
from tinyvit.config import Label, Recipe
from tinyvit.data.index import ShardIndex
from tinyvit.errors import UserError
from tinyvit.labelling.label import Labeller, open_for_labelling
from tinyvit.models.teachers import Teacher
from tinyvit.runtime.progress import Progress

# Objects of a unit, six arrays and the commit; of the store, documents and what is kept once; of the index, keys and
# their digests of so many shards (logitstore/layout.py).
OBJECTS_PER_UNIT, OBJECTS_PER_STORE, OBJECTS_PER_GROUP, SHARDS_PER_GROUP = 7, 18, 2, 64
# What a unit asks of a bucket. Writes and lists: its objects, its claim, and the claims of others before and after.
# Reads: whether it was committed meanwhile, its objects read back, read again by the verification, and the seal's look.
WRITES_PER_UNIT, READS_PER_UNIT = OBJECTS_PER_UNIT + 3, 1 + 2 * OBJECTS_PER_UNIT + 1
# Bytes of an entry's value by encoding (benchmarks/results/storage_*), and of the rest of a row: residual, seed, valid.
VALUE_BYTES = {"compact": 0.6, "fine": 1.1, "exact": 3.5, "counts": 0.3}
ROW_BYTES = 2.0
# The record of the paper's release: a seed, and of each class an id and a probability in 16 bits.
RELEASED_ROW = (4, 4)
# Work that a killed process loses at most, and memory for the rows of a unit under way.
UNIT_SECONDS = 900.0
UNIT_BYTES = 2**28
# Units for each device: the last ones end together, more or less.
UNITS_PER_DEVICE = 8
# Prefect keeps 20 kB of each task and takes some milliseconds.
MOST_TASKS = 2000


@dataclass(frozen=True)
class Work:
    """What is to be labelled: so many images in so many shards, and the classes of the teacher's logits."""

    images: int
    shards: int
    classes: int


@dataclass(frozen=True)
class Pilot:
    """What a short run measured on this machine.

    Views a second of one device with its data processes; bytes of a row in the units, of the rest of the store, rows a
    second of the verification, seconds until the first views came.
    """

    views_per_s: float
    bytes_per_row: float
    other_bytes: int
    verified_per_s: float
    seconds_to_begin: float


@dataclass(frozen=True)
class Plan:
    """What labelling takes; hours are None where no speed is known.

    The requests are those of a store in a bucket, as such a place counts them: writes and lists together, and reads.
    """

    units: int
    views_per_unit: int
    rows: int
    objects: int
    bytes: int
    bytes_as_released: int
    bucket_writes: int
    bucket_reads: int
    device_hours: float | None
    wall_hours: float | None
    prefect_tasks: int
    units_per_task: int
    recommended_epochs_per_unit: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def plan(label: Label, work: Work, devices: int, views_per_s: float | None, pilot: Pilot | None) -> Plan:
    """The plan for a recipe's labelling on so many devices, each of which does `views_per_s`."""
    speed = views_per_s or (pilot.views_per_s if pilot else None)
    units = work.shards * math.ceil(label.epochs / label.epochs_per_unit)
    rows = work.images * label.epochs
    per_row = pilot.bytes_per_row if pilot else estimated_bytes(label, work.classes)
    seconds = rows / speed if speed else None
    after = rows / pilot.verified_per_s + pilot.seconds_to_begin if pilot else 0.0
    units_per_task = max(1, math.ceil(units / MOST_TASKS))
    return Plan(
        units=units,
        views_per_unit=math.ceil(work.images / work.shards) * label.epochs_per_unit,
        rows=rows,
        objects=units * OBJECTS_PER_UNIT
        + OBJECTS_PER_STORE
        + OBJECTS_PER_GROUP * math.ceil(work.shards / SHARDS_PER_GROUP),
        bytes=int(rows * per_row) + (pilot.other_bytes if pilot else 0),
        bytes_as_released=rows * (RELEASED_ROW[0] + RELEASED_ROW[1] * label.top_k),
        bucket_writes=units * WRITES_PER_UNIT,
        bucket_reads=units * READS_PER_UNIT,
        device_hours=seconds / 3600 if seconds else None,
        wall_hours=(seconds / devices + after) / 3600 if seconds else None,
        prefect_tasks=math.ceil(units / units_per_task),
        units_per_task=units_per_task,
        recommended_epochs_per_unit=recommended(label, work, devices, speed),
    )


def estimated_bytes(label: Label, classes: int) -> float:
    """Bytes a row of logits that are spread out: which classes are kept is then as good as random."""
    kept = min(label.top_k, classes)
    choices = math.lgamma(classes + 1) - math.lgamma(kept + 1) - math.lgamma(classes - kept + 1)
    return choices / math.log(2) / 8 + kept * VALUE_BYTES[label.stored_as] + ROW_BYTES


def recommended(label: Label, work: Work, devices: int, views_per_s: float | None) -> int:
    """The most epochs a unit with which a kill loses little, memory suffices and devices end together.

    More epochs a unit are fewer objects, and an image is read and decoded once a unit.
    """
    slots = math.ceil(work.images / work.shards)
    fits = [1]
    for epochs in range(2, label.epochs + 1):
        blocks = math.ceil(label.epochs / epochs)
        seconds = slots * epochs / views_per_s if views_per_s else 0.0
        memory = slots * epochs * label.top_k * 8
        together = work.shards * blocks >= UNITS_PER_DEVICE * devices
        # Of those with as many units the one with equal blocks.
        even = math.ceil(label.epochs / blocks) == epochs
        if seconds <= UNIT_SECONDS and memory <= UNIT_BYTES and together and even:
            fits.append(epochs)
    return max(fits)


def measure(
    recipe: Recipe, teacher: Teacher, index: ShardIndex, workers: int, seconds: float, progress: Progress
) -> Pilot:
    """Label into a temporary store for about so long, a unit at least."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_for_labelling(recipe, Path(folder) / "pilot", teacher, index)
        began, reports = time.monotonic(), []
        with Claims(store) as claims:
            for report in Labeller(store, recipe, teacher, index, workers, progress, claims).label(store.units()):
                reports.append(report)
                if time.monotonic() - began > seconds:
                    break
        # The first unit's time holds the start of the data processes.
        steady = reports[1:] or reports
        speed = sum(report.views for report in steady) / sum(report.seconds for report in steady)
        rows = sum(report.views for report in reports)
        sizes = store.stored_bytes([report.unit for report in reports])
        in_units = sum(size for name, size in sizes.items() if name in {*store.arrays, "committed"})
        began = time.monotonic()
        if damaged := [unit for unit, faults in verify(store) if faults]:
            raise UserError(
                f"{store.describe_unit(damaged[0])} of the trial do not read back as written; check the disk"
            )
        return Pilot(
            views_per_s=speed,
            bytes_per_row=in_units / rows,
            other_bytes=sum(sizes.values()) - in_units,
            verified_per_s=rows / (time.monotonic() - began),
            seconds_to_begin=max(0.0, reports[0].seconds - reports[0].views / speed),
        )
