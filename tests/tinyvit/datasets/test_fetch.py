"""Fashion-MNIST from each of its sources, on a miniature of the published layouts."""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image
from support import EXAMPLE, samples_of

from tinyvit.config import Decode
from tinyvit.datasets import fetch
from tinyvit.datasets.fetch import Arrays, fetch_fashion_mnist, make_example
from tinyvit.errors import UserError
from tinyvit.runtime.progress import LogProgress
from tinyvit.views.images import EncodedImage


def split_arrays(seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    return rng.integers(256, size=(6, 28, 28), dtype=np.uint8), rng.integers(10, size=6, dtype=np.uint8)


@pytest.fixture
def miniature(monkeypatch: pytest.MonkeyPatch) -> dict[str, Arrays]:
    """Six images a split, in place of the published ones."""
    splits = {"train": split_arrays(0), "t10k": split_arrays(1)}
    digests = {name: hashlib.sha256(a.tobytes() + b.tobytes()).hexdigest() for name, (a, b) in splits.items()}
    monkeypatch.setattr(fetch, "DIGESTS", digests)
    monkeypatch.setattr(fetch, "DEBIAN_FOLDER", Path("nowhere"))
    return splits


def write_idx(folder: Path, splits: dict[str, Arrays]) -> None:
    for name, arrays in splits.items():
        for kind, values in zip(("images-idx3", "labels-idx1"), arrays, strict=True):
            head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
            (folder / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + values.tobytes()))


def assert_made_of(out: Path, splits: dict[str, Arrays]) -> None:
    for split, name in (("train", "train"), ("t10k", "val")):
        images, labels = splits[split]
        samples = samples_of(out / name)
        assert len(samples) == 6
        for sample in samples:
            place = int(sample.key.split("-")[1])
            assert (EncodedImage(sample.image, Decode()).pixels()[..., 0] == images[place]).all()
            assert sample.label == labels[place]


def test_original_files_become_shards(miniature: dict[str, Arrays], tmp_path: Path) -> None:
    write_idx(tmp_path, miniature)
    assert fetch_fashion_mnist(tmp_path / "o", LogProgress(), tmp_path) == {"train": 6, "val": 6}
    assert_made_of(tmp_path / "o", miniature)


def test_the_hubs_parquet_files_become_the_same_shards(
    miniature: dict[str, Arrays], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def png(pixels: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()

    def download(repository: str, file: str, repo_type: str) -> str:
        assert (repository, repo_type) == ("zalando-datasets/fashion_mnist", "dataset")
        images, labels = miniature["train" if "train" in file else "t10k"]
        rows = {"image": [{"bytes": png(i), "path": None} for i in images], "label": labels.tolist()}
        path = tmp_path / Path(file).name
        pyarrow.parquet.write_table(pyarrow.table(rows), path)
        return str(path)

    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(fetch, "hf_hub_download", download)
    fetch_fashion_mnist(tmp_path / "o", LogProgress())
    assert_made_of(tmp_path / "o", miniature)


def test_other_bytes_than_the_published_are_refused(miniature: dict[str, Arrays], tmp_path: Path) -> None:
    write_idx(tmp_path, {**miniature, "t10k": split_arrays(2)})
    with pytest.raises(UserError, match="t10k split is not the published"):
        fetch_fashion_mnist(tmp_path / "o", LogProgress(), tmp_path)
    assert not (tmp_path / "o").exists(), "no split may be written while the other is not known to be sound"


def test_absent_and_damaged_files_are_named(miniature: dict[str, Arrays], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz is absent or damaged"):
        fetch_fashion_mnist(tmp_path / "o", LogProgress(), tmp_path)
    write_idx(tmp_path, miniature)
    file = tmp_path / "t10k-labels-idx1-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte\.gz is absent or damaged"):
        fetch_fashion_mnist(tmp_path / "o", LogProgress(), tmp_path)


def test_without_any_source_the_ways_are_named(
    miniature: dict[str, Arrays], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise FileNotFoundError("no network")

    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(fetch, "hf_hub_download", unreachable)
    with pytest.raises(UserError, match=r"cannot be fetched from the hub .*dataset-fashion-mnist.*--source"):
        fetch_fashion_mnist(tmp_path / "o", LogProgress())


def test_the_example_is_that_of_the_checkout(tmp_path: Path) -> None:
    try:
        assert make_example(tmp_path, LogProgress()) == {"train": 2000, "val": 500}
    except UserError as fault:
        pytest.skip(str(fault))
    made = [
        file for split in ("train", "val") for file in sorted((tmp_path / split).glob("*.*")) if ".sha" not in file.name
    ]
    assert len(made) == 12
    for file in made:
        assert file.read_bytes() == (EXAMPLE / file.relative_to(tmp_path)).read_bytes(), file
