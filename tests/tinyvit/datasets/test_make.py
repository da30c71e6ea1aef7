"""Making shards: same input, same bytes; whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image
from support import EXAMPLE, bytes_of, command, left_running, marked_environment, samples_of, tinyvit, wait_until
from webdataset.compat import WebDataset

from tinyvit.config import Decode
from tinyvit.datasets.fetch import CLASSES
from tinyvit.datasets.make import write_shards
from tinyvit.datasets.sources import SourceImage, images_of
from tinyvit.errors import UserError
from tinyvit.runtime.progress import LogProgress
from tinyvit.views.images import EncodedImage


def colours(count: int) -> list[SourceImage]:
    return [SourceImage(f"p{i:03d}", "png", f"bytes {i}".encode(), i % 3) for i in range(count)]


def pack(images: list[SourceImage], out: Path, seed: int = 0) -> list[Path]:
    return write_shards(images, out, classes=["a", "b", "c"], per_shard=4, seed=seed, progress=LogProgress())


def test_images_come_back_as_they_were(tmp_path: Path) -> None:
    shards = pack(colours(10), tmp_path / "o")
    assert [s.name for s in shards] == ["shard-000000.tar", "shard-000001.tar", "shard-000002.tar"]
    read = [s for shard in shards for s in WebDataset(str(shard), shardshuffle=False)]
    assert {s["__key__"]: (s["png"], s["cls"]) for s in read} == {
        p.key: (p.content, str(p.label).encode()) for p in colours(10)
    }
    assert (tmp_path / "o" / "classes.txt").read_text() == "a\nb\nc\n"


def test_same_seed_gives_identical_bytes_and_another_seed_another_order(tmp_path: Path) -> None:
    def digests(name: str, seed: int) -> list[str]:
        return [hashlib.sha256(s.read_bytes()).hexdigest() for s in pack(colours(10), tmp_path / name, seed)]

    assert digests("one", 0) == digests("two", 0) != digests("three", 1)


def test_an_image_that_cannot_be_read_leaves_only_whole_shards(tmp_path: Path) -> None:
    images = [*colours(8), SourceImage("absent", "png", tmp_path / "absent.png", 0)]
    with pytest.raises(UserError, match=r"absent.png cannot be read .*mend the source"):
        write_shards(images, tmp_path / "o", classes=["a"], per_shard=1, seed=0, progress=LogProgress())
    files = {f.name for f in (tmp_path / "o").iterdir()} - {"classes.txt", "plan.sha256"}
    assert all(list(WebDataset(str(tmp_path / "o" / name), shardshuffle=False)) for name in files)
    assert len(files) < 9


def test_an_image_folder_is_packed_by_class(tmp_path: Path) -> None:
    for place in ("cat/one.v2.PNG", "dog/two words.jpg", "dog/notes.txt", "cat/one.jpeg"):
        file = tmp_path / "in" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(file, "PNG") if file.suffix != ".txt" else file.write_text("x")
    found = images_of(tmp_path / "in")
    assert (found.classes, found.left_out) == (["cat", "dog"], {".txt": 1})
    assert {(p.key, p.suffix, p.label) for p in found.images} == {
        ("cat_one-v2", "png", 0),
        ("cat_one", "jpeg", 0),
        ("dog_two-words", "jpg", 1),
    }
    pack(found.images, tmp_path / "out")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "no images"),
        (colours(2) + colours(1), "'p000' stands for 2 images"),
        ([SourceImage("a.b", "png", b"", 0)], "'a.b' holds a dot"),
        ([SourceImage("../etc/x", "png", b"", 0)], "holds a dot, slash"),
    ],
)
def test_images_that_cannot_be_packed_are_refused(tmp_path: Path, images: list[SourceImage], message: str) -> None:
    with pytest.raises(UserError, match=message):
        pack(images, tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_a_folder_that_holds_shards_is_not_mixed_with_others(tmp_path: Path) -> None:
    pack(colours(4), tmp_path)
    for images, seed in ((colours(5), 0), (colours(4), 1)):
        with pytest.raises(UserError, match="already holds shards of other images"):
            pack(images, tmp_path, seed)


def test_the_same_command_makes_only_the_shards_that_are_missing(tmp_path: Path) -> None:
    shards = pack(colours(10), tmp_path / "o")
    whole = {s.name: s.read_bytes() for s in shards}
    shards[1].unlink()
    kept = shards[0].stat().st_mtime_ns
    assert pack(colours(10), tmp_path / "o") == shards
    assert {s.name: s.read_bytes() for s in shards} == whole
    assert shards[0].stat().st_mtime_ns == kept


def jpeg(colour: int, side: int = 8, **options: object) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (side, side // 2), (colour, 90, 30)).save(content, "JPEG", **options)
    return content.getvalue()


def archives(folder: Path) -> None:
    """A tar and a zip of a class each, as ImageNet-21k comes."""
    folder.mkdir()
    with tarfile.open(folder / "n01.tar", "w") as tar:
        for number in range(3):
            member = tarfile.TarInfo(f"n01_{number}.JPEG")
            content = jpeg(number)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with zipfile.ZipFile(folder / "n02.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for number in range(3):
            packed.writestr(f"sub/{number}.jpg", jpeg(100 + number))
        packed.writestr("readme.txt", "x")


def read_back(out: Path) -> dict[str, tuple[bytes, int]]:
    return {
        s["__key__"]: (s.get("jpg") or s["jpeg"], int(s["cls"]))
        for shard in sorted(out.glob("*.tar"))
        for s in WebDataset(str(shard), shardshuffle=False)
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_archives_are_packed_by_class_with_their_bytes_kept(tmp_path: Path, workers: int) -> None:
    archives(tmp_path / "in")
    done = tinyvit("data", "make", tmp_path / "in", tmp_path / "o", "--per-shard", "2", "--json",
                   "--workers", str(workers))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "shards": 3, "pictures": 6, "classes": 2, "classes_without_pictures": [], "left_out": {".txt": 1},
    }  # fmt: skip
    assert read_back(tmp_path / "o") == {
        **{f"n01_{i}": (jpeg(i), 0) for i in range(3)},
        **{f"n02_sub_{i}": (jpeg(100 + i), 1) for i in range(3)},
    }
    assert (tmp_path / "o" / "index.json").exists()


def test_a_cut_archive_is_named(tmp_path: Path) -> None:
    archives(tmp_path / "in")
    tar = tmp_path / "in" / "n01.tar"
    for size in (1700, 2048):
        tar.write_bytes(tar.read_bytes()[:size])
        with pytest.raises(UserError, match=r"n01.tar is not a whole archive"):
            images_of(tmp_path / "in")


def test_a_csv_file_names_images_and_labels(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    for name in ("a.jpg", "b.JPG", "a.jpeg"):
        (tmp_path / "p" / name).write_bytes(jpeg(len(name)))
    (tmp_path / "list.csv").write_text("label,path,extra\ndog,p/a.jpg,1\ncat,p/b.JPG,2\ndog,p/a.jpeg,3\n")
    found = images_of(tmp_path / "list.csv")
    assert found.classes == ["cat", "dog"]
    assert [p.label for p in found.images] == [1, 0, 1]
    keys = [p.key for p in found.images]
    # Two files would have the key p_a: each gets a digest of its name, the same every time.
    assert keys[1] == "p_b"
    assert {key[:4] for key in (keys[0], keys[2])} == {"p_a-"}
    assert len(set(keys)) == 3
    assert [p.key for p in images_of(tmp_path / "list.csv").images] == keys
    for line, words in (("dog,p/none.jpg", "line 2: 'p/none.jpg'"), (",p/a.jpg", "line 2"), ("dog,p/a.txt", "line 2")):
        (tmp_path / "bad.csv").write_text(f"label,path\n{line}\n")
        with pytest.raises(UserError, match=words):
            images_of(tmp_path / "bad.csv")
    (tmp_path / "bad.csv").write_text("file,class\na.jpg,dog\n")
    with pytest.raises(UserError, match="needs the columns path and label, once each; it has file, class"):
        images_of(tmp_path / "bad.csv")


def test_only_larger_images_are_made_smaller(tmp_path: Path) -> None:
    images = [
        SourceImage("small", "jpg", jpeg(1, 60), 0),
        SourceImage("large", "jpg", jpeg(2, 400), 0),
        SourceImage("broken", "jpg", b"no image", 0),
    ]
    write_shards(images, tmp_path, classes=["a"], per_shard=9, seed=0, max_side=100, progress=LogProgress())
    found = {key: content for key, (content, _) in read_back(tmp_path).items()}
    assert found["small"] == jpeg(1, 60)
    assert found["broken"] == b"no image"
    assert Image.open(io.BytesIO(found["large"])).size == (100, 50)


def large_images() -> dict[str, bytes]:
    """A photograph in ways that are read each by a rule of its own, most of them turned."""
    photograph = Image.fromarray(skimage.data.chelsea()[:200, :300])
    grey = np.asarray(photograph.convert("L")).astype(np.uint16) * 257
    clear = photograph.copy()
    clear.putalpha(Image.radial_gradient("L").resize(photograph.size))
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "jpeg": bytes_of(photograph, "JPEG", quality=95, exif=exif),
        "cmyk": bytes_of(photograph.convert("CMYK"), "JPEG", quality=95),
        "tiff": bytes_of(photograph, "TIFF", exif=exif),
        "deep": bytes_of(Image.fromarray(grey), "PNG", exif=exif),
        "deep-tiff": bytes_of(Image.fromarray(grey), "TIFF", exif=exif),
        "clear": bytes_of(clear, "PNG", exif=exif),
        "palette": bytes_of(photograph.quantize(64), "PNG", transparency=bytes(range(0, 256, 4)), exif=exif),
    }


@pytest.mark.parametrize(
    "decode", [Decode(), Decode(orientation="ignore"), Decode(background="white")], ids=["usual", "as stored", "white"]
)
def test_an_image_that_was_made_smaller_is_read_as_the_large_one_would_be(tmp_path: Path, decode: Decode) -> None:
    large = large_images()
    images = [SourceImage(name, "tif", content, 0) for name, content in large.items()]
    write_shards(images, tmp_path, classes=["a"], per_shard=9, seed=0, max_side=100, progress=LogProgress())
    for sample in samples_of(tmp_path):
        before = Image.fromarray(EncodedImage(large[sample.key], decode).pixels())
        before.thumbnail((100, 100), Image.Resampling.LANCZOS)
        small = EncodedImage(sample.image, decode)
        assert small.size == before.size, sample.key
        # JPEG's own losses are about 2; an image that is turned otherwise differs by 40.
        assert np.abs(small.pixels().astype(int) - np.asarray(before)).mean() < 5, sample.key


def test_grey_without_a_white_is_left_for_the_check(tmp_path: Path) -> None:
    content = bytes_of(Image.fromarray(np.ones((200, 300), np.float32)), "TIFF")
    write_shards(
        [SourceImage("f", "tif", content, 0)], tmp_path, classes=["a"], per_shard=9, seed=0, max_side=100,
        progress=LogProgress(),
    )  # fmt: skip
    assert [sample.image for sample in samples_of(tmp_path)] == [content]


def test_a_shard_is_a_fair_sample_of_the_classes(tmp_path: Path) -> None:
    images = [SourceImage(f"p{i:04d}", "png", b"x", i // 250) for i in range(1000)]
    shards = write_shards(images, tmp_path, classes=list("abcd"), per_shard=200, seed=0, progress=LogProgress())
    for shard in shards:
        labels = [int(s["cls"]) for s in WebDataset(str(shard), shardshuffle=False)]
        # 50 of each are expected; five standard deviations of a fair draw are 27.
        assert all(23 <= labels.count(c) <= 77 for c in range(4))


def test_making_that_is_killed_goes_on(tmp_path: Path) -> None:
    source = tmp_path / "in" / "a"
    source.mkdir(parents=True)
    for number in range(400):
        (source / f"{number:03d}.jpg").write_bytes(jpeg(number % 256, 64) + b"\0" * 200_000)
    arguments = ("data", "make", source.parent, tmp_path / "o", "--per-shard", "10", "--workers", "2")
    process = subprocess.Popen(
        command(*arguments),
        env=marked_environment(str(tmp_path)),
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    wait_until(lambda: len([*(tmp_path / "o").glob("*.tar")]) > 2, process)
    process.kill()
    process.wait()
    assert left_running(str(tmp_path)) == []
    before = [*(tmp_path / "o").glob("*.tar")]
    assert len(before) < 40, "the kill came too late to prove anything"
    done = tinyvit(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout).items() >= {"shards": 40, "pictures": 400, "classes": 1}.items()
    assert len(read_back(tmp_path / "o")) == 400


def test_the_example_is_200_and_50_images_of_each_class() -> None:
    for split, each in (("train", 200), ("val", 50)):
        shards = sorted((EXAMPLE / split).glob("*.tar"))
        labels = [int(s["cls"]) for shard in shards for s in WebDataset(str(shard), shardshuffle=False)]
        assert [labels.count(c) for c in range(10)] == [each] * 10
        assert (EXAMPLE / split / "classes.txt").read_text().splitlines() == list(CLASSES)
    assert sum(f.stat().st_size for f in EXAMPLE.rglob("*") if f.is_file()) < 8e6
