"""The command: which jobs there are, how long they may take, where the results go."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.gpu import checks, data, labelling, loading, training
from benchmarks.gpu.jobs import Job, run_jobs
from benchmarks.gpu.report import Report, Section, new_file
from benchmarks.gpu.settings import Settings, full, tiny
from tinyvit.runtime.provenance import library_versions

RESULTS = Path(__file__).parents[1] / "results"


def sections() -> dict[str, Section]:
    """In the order of the file."""
    return {
        "data": Section("The data", "JPEG photographs in shards, and a store with one row of each.", data.COLUMNS),
        "training": Section(
            "1. Training, batches on the GPU",
            "Steps on a batch of random views that lies on the device: the engine's own loop on stored logits, and "
            "timm's network, prefetcher, optimiser and cross-entropy at the same precision. Both in turns; the median "
            "of the rounds. The peak is that of a large bfloat16 matrix product in the same process; a step is three "
            "forward passes.",
            training.COLUMNS,
        ),
        "loader": Section(
            "1. Training, from the loader",
            "The engine on shards of photographs joined with a store, after its first epoch; beside it what its loader "
            "gives when nothing is trained, and the rate of our last way above.",
            loading.COLUMNS,
        ),
        "live": Section(
            "2. Stored logits against the live teacher",
            "The same compiled network and views; the teacher is asked in each step.",
            training.LIVE_COLUMNS,
        ),
        "labelling": Section(
            "3. Labelling against its teacher",
            "One process. Bare is the forward pass of the same views in the same batches, which lie on the device.",
            labelling.COLUMNS,
        ),
        "checks": Section("4. Does it work", "The engine on a small network.", checks.COLUMNS),
    }


def jobs(settings: Settings) -> list[Job]:
    """In the order in which they are done: others need the data, and the modes are what time is left for."""
    students = [
        Job("training", student, share, training.of_student(student))
        for student, share in zip(settings.students, (110, 100, 90), strict=False)
    ]
    return [
        Job("data", "data", 40, data.make),
        *students,
        Job("labelling", "labelling", 50, labelling.measure),
        Job("loader", "loader", 60, loading.measure),
        Job("checks", "checks", 75, checks.measure),
        Job("training", "other modes", 60, training.other_modes),
    ]


# What can be asked for by itself: the data are always made, the live teacher is asked where its student is trained.
CHOICES = [name for name in sections() if name not in ("data", "live")]


def main(
    minutes: Annotated[float, typer.Option(min=0.05, help="how long it may take")] = 9,
    small: Annotated[bool, typer.Option("--tiny", help="the same on small networks and few images, for a CPU")] = False,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="SECTION", help=f"of {', '.join(CHOICES)}; repeatable")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="in the place of a ViT-L with random weights")] = None,
    out: Annotated[Path, typer.Option(help="the folder for the results")] = RESULTS,
) -> None:
    """Everything that takes a GPU to know, into a file of results."""
    if unknown := set(only or ()) - set(CHOICES):
        raise typer.BadParameter(f"there is no section {min(unknown)!r}; choose of {', '.join(CHOICES)}")
    logging.basicConfig(level=logging.WARNING)
    # Ended from outside, it ends the job that is at work.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    device, card = _device()
    date = datetime.now(UTC).date().isoformat()
    with tempfile.TemporaryDirectory() as folder:
        settings = (tiny if small else full)(Path(folder))
        settings = replace(settings, teacher=teacher) if teacher else settings
        chosen = [job for job in jobs(settings) if not only or job.section in {"data", *only}]
        file = new_file(out, f"gpu_{re.sub('[^a-z0-9]+', '-', card.lower()).strip('-')}_{date}")
        head = [
            f"# GPU: {card}, {date}",
            "",
            "; ".join(f"{name} {value}" for name, value in device.items()) + ".",
            "",
            f"`python -m benchmarks.gpu{' --tiny' if small else ''}`, {minutes:g} minutes; a teacher is "
            f"`{settings.teacher}`.",
        ]
        about = device | {"card": card, "date": date, "minutes": minutes, "tiny": small, "teacher": settings.teacher}
        report = Report(file, head, about, sections())
        typer.echo(file)
        run_jobs(chosen, settings, report, 60 * minutes)


def _device() -> tuple[dict[str, Any], str]:
    """The machine in words, and the name of its card."""
    machine: dict[str, Any] = {"CPU cores": os.cpu_count(), **library_versions()}
    if not torch.cuda.is_available():
        return machine, "CPU"
    card = torch.cuda.get_device_properties(0)
    memory = {"GPU memory": f"{card.total_memory / 2**30:.0f} GiB", "CUDA": torch.version.cuda}
    return machine | memory, card.name


if __name__ == "__main__":
    typer.run(main)
