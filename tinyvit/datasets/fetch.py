"""Published data sets as shards: Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747; MIT licence)."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from numpy.typing import NDArray
from PIL import Image

from tinyvit.datasets.make import write_shards
from tinyvit.datasets.sources import SourceImage
from tinyvit.errors import UserError
from tinyvit.runtime.progress import Progress

Split = Literal["train", "t10k"]

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
# SHA-256 of pixels and then labels of each split, from the files of https://github.com/zalandoresearch/fashion-mnist
DIGESTS = {
    "train": "16d82e2b505296aa2b78bd5ea0992634f30419a4c97def7c907d154a35ac6157",
    "t10k": "9f1ec356a747bfe4ebab3cfb722d3694c9ca737e2570f6f90cf31d7b6fd689d4",
}
FILES = {"train": "train-{}-idx{}-ubyte.gz", "t10k": "t10k-{}-idx{}-ubyte.gz"}
DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = Path("usr/share/datasets/fashion-mnist")
HUB_REPOSITORY = "zalando-datasets/fashion_mnist"
HUB_FILES = {
    "train": "fashion_mnist/train-00000-of-00001.parquet",
    "t10k": "fashion_mnist/test-00000-of-00001.parquet",
}
# What its splits are called here.
SPLITS: dict[str, Split] = {"train": "train", "val": "t10k"}
PER_SHARD = 2000
# Images a class of the example's sample.
EXAMPLE = {"train": 200, "val": 50}

Arrays = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def fetch_fashion_mnist(out: Path, progress: Progress, source: Path | None = None) -> dict[str, int]:
    """Make `out/train` (60,000 images) and `out/val` (10,000); returns the counts.

    The images come from the four original files in `source`, or from Debian's package where it is installed or
    apt-get can download it (no root needed), or from the Hugging Face hub (needs pyarrow). UserError, naming the
    ways, when none works.
    """
    # Both are read and checked before one is written.
    made = {name: as_images(arrays, SPLITS[name]) for name, arrays in load_fashion_mnist(source).items()}
    for name, images in made.items():
        write_shards(images, out / name, classes=CLASSES, per_shard=PER_SHARD, seed=0, prefix=name, progress=progress)
    return {name: len(images) for name, images in made.items()}


def make_example(out: Path, progress: Progress, source: Path | None = None) -> dict[str, int]:
    """Make the sample that the example's recipes are trained on; returns the counts.

    The first 200 training images of each class and the first 50 of each class of the test set, in 8 and 2 shards, from
    where `fetch_fashion_mnist` has them.
    """
    found = load_fashion_mnist(source)
    samples = {name: _first_of_each_class(as_images(found[name], SPLITS[name]), EXAMPLE[name]) for name in found}
    for name, images in samples.items():
        write_shards(images, out / name, classes=CLASSES, per_shard=250, seed=0, prefix=name, progress=progress)
    return {name: len(images) for name, images in samples.items()}


def _first_of_each_class(images: list[SourceImage], count: int) -> list[SourceImage]:
    taken: dict[int, list[SourceImage]] = defaultdict(list)
    for image in images:
        if len(taken[image.label]) < count:
            taken[image.label].append(image)
    return [image for chosen in taken.values() for image in chosen]


def load_fashion_mnist(source: Path | None = None) -> dict[str, Arrays]:
    """Images and labels of `train` and `val`, from where `fetch_fashion_mnist` has them."""
    with _debian(source) as folder:
        found = {name: read_idx(folder, split) if folder else _from_hub(split) for name, split in SPLITS.items()}
    return {name: published(arrays, SPLITS[name]) for name, arrays in found.items()}


def published(arrays: Arrays, split: Split) -> Arrays:
    """The same, found to be the published ones. UserError when they are not."""
    images, labels = arrays
    if hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest() != DIGESTS[split]:
        raise UserError(f"the {split} split is not the published Fashion-MNIST (its sha256 differs); fetch it again")
    return arrays


def as_images(arrays: Arrays, split: Split) -> list[SourceImage]:
    """Images [N, 28, 28] and labels [N] as PNG images; keys are the split's name and the place in the file."""
    images, labels = arrays
    name = "train" if split == "train" else "val"
    return [
        SourceImage(f"{name}-{i:05d}", "png", png(pixels), int(label))
        for i, (pixels, label) in enumerate(zip(images, labels, strict=True))
    ]


def read_idx(folder: Path, split: Split) -> Arrays:
    """Images and labels of a split from the original files. UserError when one is absent or damaged."""
    return _idx(folder / FILES[split].format("images", 3), 3), _idx(folder / FILES[split].format("labels", 1), 1)


def _idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read an IDX file: two zero bytes, type 8 (unsigned byte), the number of dimensions, their big-endian sizes."""
    try:
        raw = gzip.decompress(path.read_bytes())
        shape = np.frombuffer(raw, ">u4", dimensions, offset=4)
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, ValueError, zlib.error) as fault:
        raise UserError(f"{path} is absent or damaged ({fault}); fetch the original files again") from fault


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels [H, W] or [H, W, 3] as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


@contextmanager
def _debian(given: Path | None) -> Iterator[Path | None]:
    """A folder with the original files: the given one, the installed package's, a downloaded one; or None."""
    installed = Path("/") / DEBIAN_FOLDER
    with tempfile.TemporaryDirectory() as temporary:
        yield given or (installed if installed.is_dir() else _download(Path(temporary)))


def _download(temporary: Path) -> Path | None:
    """Download and unpack Debian's package without installing it; None where that does not work."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return None
    # apt drops root's rights for a download, and then may not write here.
    options = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
    command = ["apt-get", "-q", *options, "download", DEBIAN_PACKAGE]
    if subprocess.run(command, cwd=temporary, capture_output=True, check=False).returncode != 0:  # noqa: S603
        return None
    unpack = ["dpkg-deb", "-x", str(next(temporary.glob("*.deb"))), str(temporary / "x")]
    if subprocess.run(unpack, capture_output=True, check=False).returncode != 0:  # noqa: S603
        return None
    return temporary / "x" / DEBIAN_FOLDER


def _from_hub(split: Split) -> Arrays:
    """Images and labels of a split from the hub's parquet files, where images are PNG bytes."""
    ways = (
        f"install Debian's {DEBIAN_PACKAGE}, or give --source with the four files of "
        f"github.com/zalandoresearch/fashion-mnist"
    )
    try:
        from pyarrow.parquet import read_table
    except ImportError as fault:
        raise UserError(f"without Debian's package the hub's files need `pip install pyarrow`; or {ways}") from fault
    try:
        file = hf_hub_download(HUB_REPOSITORY, HUB_FILES[split], repo_type="dataset")
    except (HfHubHTTPError, OSError) as fault:
        reason = type(fault).__name__
        raise UserError(f"Fashion-MNIST cannot be fetched from the hub ({reason}); {ways}") from fault
    columns = read_table(file).to_pydict()
    images = [np.asarray(Image.open(io.BytesIO(image["bytes"]))) for image in columns["image"]]
    return np.stack(images), np.array(columns["label"], np.uint8)
