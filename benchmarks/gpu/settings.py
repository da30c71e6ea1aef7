"""What is measured, in full on a GPU or tiny on a CPU; the targets, which are the only figures written down here."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinyvit.config import Recipe, load_recipe
from tinyvit.data.loader import default_workers

STAGE = "pretrain"
# As the recipes of the paper have them: 100 of a teacher's classes, here of 1,000.
CLASSES, TOP_K = 1000, 100


@dataclass(frozen=True)
class Target:
    """What a student should reach: images a second of training, and how many times the rate with the live teacher."""

    images_per_s: float
    over_live: float | None = None


TARGETS = {"5m": Target(5700, 5.8), "11m": Target(4760), "21m": Target(2900, 3.4)}
# Labelling, of the bare forward pass of its teacher.
LABELLING_TARGET = 0.95


@dataclass(frozen=True)
class Settings:
    """How large everything is. `folder` is for what is made and thrown away.

    Students are those of the recipes `in22k-distill-NAME`, changed by `overrides`. Batches are tried from `batches[0]`
    on, each twice the one before, to `batches[1]`; a round has about `images`. `compile` are torch.compile's options
    of the main comparison, `modes` others that may be faster. Of the `photographs` there are `copies` each.
    `workers` are the numbers of data processes that are tried, the usual one first; each of them makes so many batches
    in `waves`.
    """

    folder: Path
    teacher: str = "python:benchmarks.gpu.teachers:large"
    students: tuple[str, ...] = ("5m", "21m", "11m")
    overrides: tuple[str, ...] = ()
    size: int = 224
    batches: tuple[int, int] = (256, 2048)
    images: int = 6144
    rounds: int = 5
    compile: dict[str, Any] = field(default_factory=dict)
    engine_compile: bool = True
    modes: tuple[str, ...] = ("reduce-overhead", "max-autotune-no-cudagraphs")
    photographs: int = 512
    copies: int = 16
    waves: int = 4
    workers: tuple[int, ...] = ()
    matrix: int = 8192

    @property
    def data(self) -> Path:
        """The shards of photographs."""
        return self.folder / "data"

    @property
    def store(self) -> Path:
        """One epoch of logits for them."""
        return self.folder / "store"

    def steps(self, batch_size: int) -> int:
        """Of a round."""
        return max(2, self.images // batch_size)

    @property
    def beside(self) -> int:
        """Data processes where their number is not the question."""
        return self.workers[0]

    def recipe(self, student: str, batch_size: int, *changes: str) -> Recipe:
        """The recipe of a student on the photographs, in whole batches."""
        return load_recipe(
            f"in22k-distill-{student}",
            (
                f"data.train={self.data}",
                f"label.teacher={self.teacher}",
                f"label.input_size={self.size}",
                f"label.top_k={TOP_K}",
                "label.epochs=1",
                "label.epochs_per_unit=1",
                f"stages.{STAGE}.batch_size={batch_size}",
                f"stages.{STAGE}.warmup_epochs=0",
                # Of what is learned of random views nothing is wanted but that it stays finite.
                f"stages.{STAGE}.lr=1.0e-6",
                f"stages.{STAGE}.min_lr=0",
                "engine.micro_batch=null",
                *self.overrides,
                *changes,
            ),
        )


def full(folder: Path) -> Settings:
    """For a GPU."""
    usual = default_workers()
    return Settings(folder, workers=tuple(dict.fromkeys([usual, *_all_cores(usual)])))


def _all_cores(usual: int) -> list[int]:
    """Where the usual number of data processes leaves cores unused, also as many as there are beside this one."""
    cores = (os.cpu_count() or 1) - 1
    return [cores] if cores > usual else []


def tiny(folder: Path) -> Settings:
    """For a CPU, in seconds: the same code on small networks and few images."""
    small = "{drop_path_rate: 0.0, img_size: 32, embed_dims: [16, 32, 48, 64], depths: [1, 1, 1, 1], "
    small += "num_heads: [1, 2, 3, 4], window_sizes: [4, 4, 2, 1]}"
    return Settings(
        folder,
        teacher="python:benchmarks.gpu.teachers:small",
        students=("5m",),
        overrides=(f"student.kwargs={small}",),
        size=32,
        batches=(8, 16),
        images=32,
        rounds=1,
        # Tracing alone: inductor's C++ takes minutes.
        compile={"backend": "eager"},
        engine_compile=False,
        modes=(),
        photographs=16,
        copies=2,
        waves=2,
        workers=(0, 1),
        matrix=64,
    )
