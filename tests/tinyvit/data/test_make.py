"""Making shards: same input, same bytes; whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import webdataset as wds
from PIL import Image
from support import EXAMPLE

from tinyvit.data.fetch import CLASSES
from tinyvit.data.make import Picture, from_image_folder, write_shards
from tinyvit.data.shards import read_samples
from tinyvit.errors import UserError


def colours(count: int) -> list[Picture]:
    return [Picture(f"p{i:03d}", "png", f"bytes {i}".encode(), i % 3) for i in range(count)]


def pack(pictures: list[Picture], out: Path, seed: int = 0) -> list[Path]:
    return write_shards(pictures, out, classes=["a", "b", "c"], per_shard=4, seed=seed)


def test_pictures_come_back_as_they_were(tmp_path: Path) -> None:
    shards = pack(colours(10), tmp_path / "o")
    assert [s.name for s in shards] == ["shard-000000.tar", "shard-000001.tar", "shard-000002.tar"]
    read = [s for shard in shards for s in wds.WebDataset(str(shard), shardshuffle=False)]
    assert {s["__key__"]: (s["png"], s["cls"]) for s in read} == {
        p.key: (p.content, str(p.label).encode()) for p in colours(10)
    }
    assert (tmp_path / "o" / "classes.txt").read_text() == "a\nb\nc\n"


def test_same_seed_gives_identical_bytes_and_another_seed_another_order(tmp_path: Path) -> None:
    def digests(name: str, seed: int) -> list[str]:
        return [hashlib.sha256(s.read_bytes()).hexdigest() for s in pack(colours(10), tmp_path / name, seed)]

    assert digests("one", 0) == digests("two", 0) != digests("three", 1)


def test_a_picture_that_cannot_be_read_leaves_only_whole_shards(tmp_path: Path) -> None:
    pictures = [*colours(8), Picture("absent", "png", tmp_path / "absent.png", 0)]
    with pytest.raises(FileNotFoundError):
        write_shards(pictures, tmp_path / "o", classes=["a"], per_shard=1, seed=0)
    files = list((tmp_path / "o").iterdir())
    assert all(f.suffix == ".tar" and list(read_samples(f)) for f in files)
    assert len(files) < 9


def test_an_image_folder_is_packed_by_class(tmp_path: Path) -> None:
    for place in ("cat/one.v2.PNG", "dog/two words.jpg", "dog/notes.txt", "cat/one.jpeg"):
        file = tmp_path / "in" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(file, "PNG") if file.suffix != ".txt" else file.write_text("x")
    pictures, classes = from_image_folder(tmp_path / "in")
    assert classes == ["cat", "dog"]
    assert {(p.key, p.suffix, p.label) for p in pictures} == {
        ("cat_one-v2", "png", 0),
        ("cat_one", "jpeg", 0),
        ("dog_two-words", "jpg", 1),
    }
    pack(pictures, tmp_path / "out")


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ([], "no pictures"),
        (colours(2) + colours(1), "'p000' stands for 2 pictures"),
        ([Picture("a.b", "png", b"", 0)], "'a.b' holds a dot"),
        ([Picture("../etc/x", "png", b"", 0)], "holds a dot, slash"),
    ],
)
def test_pictures_that_cannot_be_packed_are_refused(tmp_path: Path, pictures: list[Picture], message: str) -> None:
    with pytest.raises(UserError, match=message):
        pack(pictures, tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_a_folder_that_holds_shards_is_not_mixed_with_others(tmp_path: Path) -> None:
    pack(colours(4), tmp_path)
    with pytest.raises(UserError, match="already holds shards"):
        pack(colours(4), tmp_path)


def test_the_example_is_200_and_50_pictures_of_each_class() -> None:
    for split, each in (("train", 200), ("val", 50)):
        shards = sorted((EXAMPLE / split).glob("*.tar"))
        labels = [s.label for shard in shards for s in read_samples(shard)]
        assert [labels.count(c) for c in range(10)] == [each] * 10
        assert (EXAMPLE / split / "classes.txt").read_text().splitlines() == list(CLASSES)
    assert sum(f.stat().st_size for f in EXAMPLE.rglob("*") if f.is_file()) < 8e6
