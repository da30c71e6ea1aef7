"""Make the sample in this folder: 2,000 training and 500 validation images of Fashion-MNIST.

    python examples/fashion-mnist/make.py FOLDER    # FOLDER has the four original .gz files

The first 200 training images of each class and the first 50 of each class of the test set, in 8 and 2 shards.
"""

import shutil
import sys
from collections import defaultdict
from pathlib import Path

from tinyvit.data.fetch import CLASSES, Split, as_pictures, published, read_idx
from tinyvit.data.make import write_shards
from tinyvit.data.sources import Picture
from tinyvit.progress import default_progress

HERE = Path(__file__).parent


def sample(folder: Path, split: Split, per_class: int) -> list[Picture]:
    """The first `per_class` pictures of each class of a split."""
    taken: dict[int, list[Picture]] = defaultdict(list)
    for picture in as_pictures(published(read_idx(folder, split), split), split):
        if len(taken[picture.label]) < per_class:
            taken[picture.label].append(picture)
    return [picture for pictures in taken.values() for picture in pictures]


def main() -> None:
    """Write train/ and val/ beside this file, in place of what stands there."""
    folder = Path(sys.argv[1])
    for split, name, per_class in (("train", "train", 200), ("t10k", "val", 50)):
        out = HERE / name
        shutil.rmtree(out, ignore_errors=True)
        pictures = sample(folder, split, per_class)  # type: ignore[arg-type]
        write_shards(pictures, out, classes=CLASSES, per_shard=250, seed=0, prefix=name, progress=default_progress())


if __name__ == "__main__":
    main()
