"""scikit-learn's handwritten digits as shards: 1,797 images of 8 x 8 pixels (UCI, Alpaydin and Kaynak 1998, CC BY
4.0), which come with the package.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tinyvit.datasets.fetch import png
from tinyvit.datasets.make import write_shards
from tinyvit.datasets.sources import SourceImage
from tinyvit.errors import UserError
from tinyvit.runtime.progress import Progress

# In the order of the package, which has no split of its own: the last fifth is held out.
TRAIN = 1437
PER_SHARD = 500


def make_digits(out: Path, progress: Progress) -> dict[str, int]:
    """Make `out/train` (1,437 images) and `out/val` (360); returns the counts. UserError without scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as fault:
        raise UserError("the digits come with scikit-learn: pip install 'tinyvit-distill[transfer]'") from fault
    digits = load_digits()
    # 0 to 16 in the package.
    pixels = (digits.images * 255 / 16).round().astype(np.uint8)
    images = [
        SourceImage(f"digit-{number:04d}", "png", png(one), int(label))
        for number, (one, label) in enumerate(zip(pixels, digits.target, strict=True))
    ]
    splits = {"train": images[:TRAIN], "val": images[TRAIN:]}
    classes = [str(digit) for digit in range(10)]
    for name, part in splits.items():
        write_shards(part, out / name, classes=classes, per_shard=PER_SHARD, seed=0, prefix=name, progress=progress)
    return {name: len(part) for name, part in splits.items()}
