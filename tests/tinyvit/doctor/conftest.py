"""Photographs of six classes of ImageNet's, cut from those in scikit-image and scikit-learn."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.photographs import sources
from tinyvit.datasets.make import write_shards
from tinyvit.datasets.sources import SourceImage
from tinyvit.runtime.progress import LogProgress

# Synset and photographs, in the order of synsets: the labels are 0 to 5.
CLASSES = (
    ("n02124075", ("chelsea",)),  # Egyptian cat
    ("n03773504", ("rocket",)),  # missile
    ("n03785016", ("motorcycle-left", "motorcycle-right")),  # moped
    ("n03877845", ("china",)),  # palace
    ("n07920052", ("coffee",)),  # espresso
    ("n11939491", ("flower",)),  # daisy
)
EACH = 12
SIDE = 200


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards with 72 squares of 70 to 100 % of a photograph's shorter side, and classes.txt."""
    rng, found = np.random.default_rng(0), sources()
    images = [
        SourceImage(f"{synset}-{n:02}", "jpg", _cut(found[names[n % len(names)]], rng), label)
        for label, (synset, names) in enumerate(CLASSES)
        for n in range(EACH)
    ]
    folder = tmp_path_factory.mktemp("photographs")
    write_shards(images, folder, classes=[name for name, _ in CLASSES], per_shard=60, seed=0, progress=LogProgress())
    return folder


def _cut(photograph: Image.Image, rng: np.random.Generator) -> bytes:
    side = rng.uniform(0.7, 1) * min(photograph.size)
    left, top = rng.uniform(0, photograph.width - side), rng.uniform(0, photograph.height - side)
    box = (left, top, left + side, top + side)
    content = io.BytesIO()
    photograph.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC, box).save(content, "JPEG", quality=92)
    return content.getvalue()
