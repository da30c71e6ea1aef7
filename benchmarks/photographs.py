"""Shards of photographs to measure data paths on: crops of the photographs in scikit-image and scikit-learn.

Every crop is another part of a photograph at another size, encoded anew, so that no two files are alike; sides
are about 500 x 375 pixels and qualities those of photographs on the web, as in ImageNet.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image
from sklearn.datasets import load_sample_images

from tinyvit.datasets.make import write_shards
from tinyvit.datasets.sources import SourceImage
from tinyvit.runtime.progress import LogProgress

NAMES = ("astronaut", "chelsea", "coffee", "hubble_deep_field", "immunohistochemistry", "retina", "rocket")
SHARE_OF_SIDE = (0.5, 1.0)
WIDTH = (450, 550)
ASPECT = (1.2, 1.5)
QUALITY = (88, 98)


def sources() -> dict[str, Image.Image]:
    """The photographs that come with the two packages, by name."""
    found = {name: Image.fromarray(getattr(skimage.data, name)()) for name in NAMES}
    left, right, _ = skimage.data.stereo_motorcycle()
    found |= {"motorcycle-left": Image.fromarray(left), "motorcycle-right": Image.fromarray(right)}
    sample = load_sample_images()
    return found | {
        Path(name).stem: Image.fromarray(pixels) for name, pixels in zip(sample.filenames, sample.images, strict=True)
    }


def write_photographs(out: Path, count: int, per_shard: int, seed: int) -> list[Path]:
    """`count` JPEG photographs in shards; the class of each is the photograph it was cut from."""
    rng = np.random.default_rng(seed)
    names = sorted(photographs := sources())
    images = [
        SourceImage(
            f"{names[i % len(names)]}-{i:05d}", "jpg", _cut(photographs[names[i % len(names)]], rng), i % len(names)
        )
        for i in range(count)
    ]
    return write_shards(images, out, classes=names, per_shard=per_shard, seed=seed, progress=LogProgress())


def _cut(photograph: Image.Image, rng: np.random.Generator) -> bytes:
    width = int(rng.integers(*WIDTH))
    height = round(width / rng.uniform(*ASPECT))
    share = rng.uniform(*SHARE_OF_SIDE)
    box_width = share * min(photograph.width, photograph.height * width / height)
    box_height = box_width * height / width
    left, top = rng.uniform(0, photograph.width - box_width), rng.uniform(0, photograph.height - box_height)
    cut = photograph.resize(
        (width, height), Image.Resampling.BICUBIC, (left, top, left + box_width, top + box_height), reducing_gap=3.0
    )
    encoded = io.BytesIO()
    cut.convert("RGB").save(encoded, "JPEG", quality=int(rng.integers(*QUALITY)))
    return encoded.getvalue()
