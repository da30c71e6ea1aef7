"""`data check`: what is wrong with shards, and what is only odd."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import EXAMPLE, tinyvit

from tinyvit.config import Decode
from tinyvit.datasets.check import KINDS
from tinyvit.datasets.make import write_shards
from tinyvit.datasets.sources import SourceImage
from tinyvit.runtime.progress import LogProgress
from tinyvit.views.images import BrokenImage, EncodedImage

RNG = np.random.default_rng(0)


def content(mode: str, kind: str, **options: Any) -> bytes:
    """An image of random colours."""
    made = io.BytesIO()
    noise = Image.fromarray(RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    image = (
        Image.fromarray(RNG.integers(0, 65536, (20, 30), dtype=np.uint16)) if mode == "I;16" else noise.convert(mode)
    )
    image.save(made, kind, **options)
    return made.getvalue()


def odd_images() -> list[SourceImage]:
    turned = Image.Exif()
    turned[0x0112] = 3
    frames = [Image.new("RGB", (30, 20), (c, 0, 0)) for c in (10, 200)]
    whole = content("RGB", "JPEG")
    by_name = {
        "plain": (whole, "jpg"),
        "twin": (whole, "jpg"),
        "cmyk": (content("CMYK", "JPEG"), "jpg"),
        "deep": (content("I;16", "PNG"), "png"),
        "palette": (content("P", "PNG", transparency=0), "png"),
        "alpha": (content("RGBA", "PNG"), "png"),
        "grey": (content("L", "JPEG"), "jpg"),
        "turned": (content("RGB", "JPEG", exif=turned), "jpg"),
        "animated": (content("RGB", "WEBP", save_all=True, append_images=frames), "webp"),
        "cut": (whole[:-200], "jpg"),
        "text": (b"<html>not found</html>", "jpg"),
        "empty": (b"", "jpg"),
        "fractions": (content("F", "TIFF"), "tif"),
    }
    return [SourceImage(name, suffix, data, 0) for name, (data, suffix) in by_name.items()]


def check(data: Path, rc: int) -> dict[str, Any]:
    done = tinyvit("data", "check", data, "--json", "--workers", "2")
    assert done.returncode == rc, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def pack(images: list[SourceImage], out: Path, classes: list[str]) -> Path:
    return write_shards(images, out, classes=classes, per_shard=100, seed=0, progress=LogProgress())[0]


def test_the_example_is_sound() -> None:
    found = check(EXAMPLE / "val", 0)
    assert (found["samples"], found["faults"]) == (500, [])
    assert found["kinds"] == {"grey": found["kinds"]["grey"]}
    assert found["width"] == {"least": 28, "median": 28, "most": 28}
    assert found["classes"] == {"named": 10, "used": 10, "without_label": 0, "fewest": 50, "most": 50}


def test_broken_images_are_faults_and_odd_ones_are_told(tmp_path: Path) -> None:
    pack([*odd_images(), SourceImage("late", "jpg", content("RGB", "JPEG"), 7)], tmp_path, ["a", "b"])
    found = check(tmp_path, 1)
    faults = " ".join(found["faults"])
    assert len(found["faults"]) == 5
    assert all(f"'{name}' cannot be decoded" in faults for name in ("cut", "text", "empty"))
    assert "'late' has the label 7, classes.txt names 2 classes" in faults
    assert "'text' cannot be decoded (it is in no format of images that Pillow knows)" in faults
    assert "'fractions' cannot be decoded (TIFF with grey in fractions" in faults
    assert " at 0x" not in faults
    assert {kind: told["are"] for kind, told in found["kinds"].items()} == KINDS
    kinds = {kind: [key.split("'")[1] for key in told["such as"]] for kind, told in found["kinds"].items()}
    assert sorted(kinds.pop("same file as another")) in (["plain"], ["twin"])
    assert kinds == {
        "CMYK": ["cmyk"],
        "16 bits": ["deep"],
        "palette with transparency": ["palette"],
        "transparency": ["alpha"],
        "grey": ["grey"],
        "EXIF rotation": ["turned"],
        "animated": ["animated"],
    }


def test_cut_tars_are_all_named(tmp_path: Path) -> None:
    images = [SourceImage(f"p{i}", "jpg", content("RGB", "JPEG"), 0) for i in range(8)]
    write_shards(images, tmp_path, classes=["a"], per_shard=2, seed=0, progress=LogProgress())
    shards = sorted(tmp_path.glob("*.tar"))
    for shard in shards[1:3]:
        shard.write_bytes(shard.read_bytes()[:-10240])
    found = check(tmp_path, 1)
    assert len(found["faults"]) == 2
    assert [shard.name in fault for shard, fault in zip(shards[1:3], found["faults"], strict=True)] == [True, True]


@pytest.mark.parametrize("image", odd_images(), ids=lambda p: p.key)
def test_odd_images_become_rgb_or_are_refused(image: SourceImage) -> None:
    encoded = EncodedImage(image.read(), Decode())
    if image.key in ("cut", "text", "empty", "fractions"):
        with pytest.raises(BrokenImage):
            encoded.pixels()
    else:
        assert encoded.pixels().shape == (20, 30, 3)
        assert encoded.pixels().dtype == np.uint8


def test_a_decompression_bomb_is_refused_with_its_name(tmp_path: Path) -> None:
    bomb = io.BytesIO()
    # 360 million pixels in 44 kB: twice Pillow's limit is 179 million.
    Image.new("1", (20_000, 18_000)).save(bomb, "PNG")
    with pytest.raises(BrokenImage, match="decompression bomb"):
        EncodedImage(bomb.getvalue(), Decode()).pixels()
    pack([SourceImage("bomb", "png", bomb.getvalue(), 0)], tmp_path, ["a"])
    found = check(tmp_path, 1)
    assert "'bomb' cannot be decoded (Image size (360000000 pixels) exceeds limit" in found["faults"][0]
