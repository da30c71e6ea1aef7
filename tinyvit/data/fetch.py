"""Published data sets as shards: Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747; MIT licence)."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from numpy.typing import NDArray
from PIL import Image

from tinyvit.data.make import Picture, write_shards
from tinyvit.errors import UserError

Split = Literal["train", "t10k"]

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
# The files as https://github.com/zalandoresearch/fashion-mnist publishes them.
FILES = {
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}
DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = Path("usr/share/datasets/fashion-mnist")
HUB_REPOSITORY = "zalando-datasets/fashion_mnist"
PER_SHARD = 2000


def fetch_fashion_mnist(out: Path, source: Path | None = None) -> dict[str, int]:
    """Make `out/train` (60,000 images) and `out/val` (10,000); returns the counts.

    The four original files come from `source`, from Debian's package where it is installed or apt-get can
    download it (no root needed), or from the Hugging Face hub. UserError, naming the ways, when none works.
    """
    with _source(source) as folder:
        counts: dict[str, int] = {}
        for split, name in (("train", "train"), ("t10k", "val")):
            pictures = fashion_mnist_pictures(folder, split)  # type: ignore[arg-type]
            write_shards(pictures, out / name, classes=CLASSES, per_shard=PER_SHARD, seed=0, prefix=name)
            counts[name] = len(pictures)
    return counts


def fashion_mnist_pictures(folder: Path, split: Split) -> list[Picture]:
    """One split as PNG pictures; keys are the split's name and the index in the original file."""
    images = _idx(folder / f"{split}-images-idx3-ubyte.gz", 3)
    labels = _idx(folder / f"{split}-labels-idx1-ubyte.gz", 1)
    name = "train" if split == "train" else "val"
    return [
        Picture(f"{name}-{i:05d}", "png", _png(pixels), int(label))
        for i, (pixels, label) in enumerate(zip(images, labels, strict=True))
    ]


def _idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read an IDX file: two zero bytes, type 8 (unsigned byte), the number of dimensions, their big-endian sizes."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != FILES[path.name]:
        raise UserError(f"{path} is not the published file (its sha256 differs); fetch it again")
    raw = gzip.decompress(content)
    shape = np.frombuffer(raw, ">u4", dimensions, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


@contextmanager
def _source(given: Path | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as temporary:
        for folder in (given,) if given else (Path("/") / DEBIAN_FOLDER,):
            if all((folder / name).is_file() for name in FILES):
                yield folder
                return
        if given:
            raise UserError(f"{given} does not hold the four files {', '.join(FILES)}")
        yield _from_debian(Path(temporary)) or _from_hub(Path(temporary))


def _from_debian(temporary: Path) -> Path | None:
    """Download and unpack Debian's package without installing it; None where that does not work."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return None
    # apt drops root's rights for a download, and then may not write here.
    options = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
    command = ["apt-get", "-q", *options, "download", DEBIAN_PACKAGE]
    if subprocess.run(command, cwd=temporary, capture_output=True, check=False).returncode != 0:  # noqa: S603
        return None
    package = next(temporary.glob("*.deb"))
    subprocess.run(["dpkg-deb", "-x", package, temporary / "x"], check=True)  # noqa: S603, S607
    return temporary / "x" / DEBIAN_FOLDER


def _from_hub(temporary: Path) -> Path:
    try:
        for name in FILES:
            hf_hub_download(HUB_REPOSITORY, name, repo_type="dataset", local_dir=temporary)
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
        raise UserError(
            f"Fashion-MNIST cannot be fetched: no Debian package {DEBIAN_PACKAGE} and no hub within reach; "
            f"give --source with the four files of github.com/zalandoresearch/fashion-mnist"
        ) from None
    return temporary
