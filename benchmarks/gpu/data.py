"""The data of the run: shards of photographs, and a store with one epoch of logits for them."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.gpu.jobs import Clock, Figures
from benchmarks.gpu.report import Note, Row
from benchmarks.gpu.settings import Settings
from tinyvit.data.index import index_shards
from tinyvit.datasets.make import write_shards
from tinyvit.datasets.sources import SourceImage
from tinyvit.labelling.label import label_store
from tinyvit.models.teachers import load_teacher
from tinyvit.runtime.gpu_lock import reserve_gpu
from tinyvit.runtime.progress import SilentProgress

COLUMNS = ("images", "of them different", "bytes an image", "seconds")
PER_SHARD = 256
QUICK = "python:benchmarks.gpu.teachers:quick"


def make(settings: Settings, _figures: Figures, _clock: Clock) -> Iterator[Row | Note]:
    """Make both."""
    began = time.monotonic()
    try:
        from benchmarks.photographs import write_photographs

        write_photographs(settings.folder / "cut", settings.photographs, PER_SHARD, seed=0)
        images = _read(settings.folder / "cut")
    except ImportError as missing:
        yield Note("data", f"{missing.name} is not installed: drawn images take the place of photographs")
        images = _drawn(settings.photographs)
    # Another key for the same bytes: a data set has each key once.
    copies = [SourceImage(f"{n}-{p.key}", p.suffix, p.content, p.label) for n in range(settings.copies) for p in images]
    names = [f"kind {label}" for label in range(1 + max(image.label for image in images))]
    per_shard = min(PER_SHARD, settings.photographs)
    write_shards(copies, settings.data, classes=names, per_shard=per_shard, seed=0, progress=SilentProgress())
    recipe = settings.recipe(settings.students[0], 2, f"label.teacher={QUICK}")
    teacher = load_teacher(QUICK, reserve_gpu(), None, settings.size)
    label_store(recipe, settings.store, teacher, settings.beside, SilentProgress())
    size = sum(len(image.read()) for image in images) / len(images)
    seconds = time.monotonic() - began
    yield Row(
        "data",
        (f"{len(copies):,}", f"{len(images):,}", f"{size:,.0f}", f"{seconds:.0f}"),
        {"pictures": len(copies), "different": len(images), "bytes": size, "seconds": seconds},
    )


def _read(folder: Path) -> list[SourceImage]:
    samples = (sample for shard in index_shards(folder, SilentProgress()).shards() for sample in shard.read_all())
    return [SourceImage(sample.key, "jpg", sample.image, sample.label or 0) for sample in samples]


def _drawn(count: int) -> list[SourceImage]:
    """Images as large as photographs, smooth with some noise, so that they are about as hard to decode."""
    rng = np.random.default_rng(0)
    images = []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = np.clip(smooth + rng.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8)
        encoded = io.BytesIO()
        Image.fromarray(noisy).save(encoded, "JPEG", quality=90)
        images.append(SourceImage(f"drawn-{number:05d}", "jpg", encoded.getvalue(), number % 10))
    return images
