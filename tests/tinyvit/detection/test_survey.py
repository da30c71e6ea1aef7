"""The images of a set beside what its annotation file says of them: sizes, turns, what is missing or broken."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coco_sets import CPU
from PIL import Image

from tinyvit.config import Decode
from tinyvit.detection.coco import CocoSet
from tinyvit.detection.measure import DetectionEvaluator
from tinyvit.detection.scenes import TrainingScenes
from tinyvit.detection.survey import Seen, check_set, look_at
from tinyvit.errors import UserError
from tinyvit.runtime.progress import SilentProgress

ORIENTATION = 0x0112
# What the camera does to an upright image before it notes the turn.
HELD = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}


def upright(number: int) -> Image.Image:
    """A dark image of 90 x 60 with one white box."""
    pixels = np.full((60, 90, 3), 20, np.uint8)
    left, top, width, height = box(number)
    pixels[top : top + height, left : left + width] = 250
    return Image.fromarray(pixels)


def box(number: int) -> list[int]:
    return [8 + 4 * number, 6 + 3 * number, 24, 12]


def encoded(image: Image.Image, orientation: int, suffix: str) -> bytes:
    """As a camera that was held so writes it."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    held = HELD[orientation]
    file = io.BytesIO()
    options: dict[str, Any] = {"quality": 98, "subsampling": 0} if suffix == "jpg" else {}
    stored = image.transpose(held) if held is not None else image
    stored.save(file, "JPEG" if suffix == "jpg" else "PNG", exif=exif, **options)
    return file.getvalue()


def photographs(folder: Path, orientations: list[int], as_stored: bool = False, suffix: str = "jpg") -> CocoSet:
    """A set of such images, annotated upright or by somebody who was shown them as they are stored."""
    (folder / "val").mkdir(parents=True)
    (folder / "annotations").mkdir()
    images, annotations = [], []
    for number, orientation in enumerate(orientations):
        (folder / "val" / f"{number}.{suffix}").write_bytes(encoded(upright(number), orientation, suffix))
        held = HELD[orientation] if as_stored else None
        shown = np.asarray(upright(number).transpose(held) if held is not None else upright(number))[..., 0] > 128
        (top, *_, bottom), (left, *_, right) = (np.flatnonzero(shown.any(axis=axis)) for axis in (1, 0))
        height, width = shown.shape
        images.append({"id": number, "file_name": f"{number}.{suffix}", "width": width, "height": height})
        place = [int(left), int(top), int(right - left + 1), int(bottom - top + 1)]
        annotations.append({"id": number, "image_id": number, "category_id": 1, "bbox": place})
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "box"}]}
    file = folder / "annotations" / "instances_val.json"
    file.write_text(json.dumps(document))
    return CocoSet(file)


def checked(coco: CocoSet, measured: bool = False) -> CocoSet:
    return check_set(coco, False, measured, CPU, 0, SilentProgress())


class Seeing(torch.nn.Module):
    """Finds the white box of each image."""

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        found = []
        for image in images:
            rows, columns = torch.nonzero(image[0] > 0.5, as_tuple=True)
            place = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
            found.append({"boxes": place[None], "labels": torch.tensor([1]), "scores": torch.ones(1)})
        return found


def precision(coco: CocoSet) -> float:
    evaluator = DetectionEvaluator(coco, coco.classes, "the detector", CPU, 0, torch.float32)
    return float(evaluator.measure(Seeing())["ap"])


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("as_stored", [False, True])
@pytest.mark.parametrize("orientations", [[1, 1, 1], [6, 8, 6], [1, 6, 3], [8, 2, 1]])
def test_turned_photographs_have_the_precision_of_upright_ones(
    orientations: list[int], as_stored: bool, suffix: str, tmp_path: Path
) -> None:
    coco = checked(photographs(tmp_path, orientations, as_stored, suffix), measured=True)
    assert precision(coco) == pytest.approx(100)
    for batch in TrainingScenes(coco, 3, 0, 0, masks=False, hflip=0.5).read(0, 1):
        for image, target in zip(batch.images, batch.targets, strict=True):
            (left, top, right, bottom), bright = target["boxes"][0].int().tolist(), image[0] > 128
            assert bright[top:bottom, left:right].all()
            assert int(bright.sum()) == (bottom - top) * (right - left)


def test_how_images_were_annotated_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    coco = photographs(tmp_path, [6, 8, 3, 1], as_stored=True)
    with caplog.at_level("INFO", "tinyvit"):
        read = checked(coco)
    assert read.decode.orientation == "ignore"
    assert caplog.messages == [
        f"{coco.annotations}: 3 of 4 images have a noted turn; by their sizes 0 were annotated upright, 2 as they "
        f"are stored; 1 may be either and are read as they are stored"
    ]


def test_where_sizes_say_nothing_or_both_the_recipe_decides(tmp_path: Path) -> None:
    for orientation in ("exif", "ignore"):
        silent = photographs(tmp_path / orientation, [3, 2, 1])
        asked = CocoSet(silent.annotations, Decode(orientation=orientation))
        assert checked(asked).decode.orientation == orientation
    mixed = photographs(tmp_path / "mixed", [6, 8])
    document = json.loads(mixed.annotations.read_text())
    document["images"][0] |= {"width": 60, "height": 90}
    mixed.annotations.write_text(json.dumps(document))
    read = checked(CocoSet(mixed.annotations))
    assert read.decode.orientation == "exif"
    # Each has the size that was annotated all the same.
    assert [read.image(number).shape for number in range(2)] == [(90, 60, 3), (60, 90, 3)]


def test_an_image_of_another_size_is_refused_with_both(tmp_path: Path) -> None:
    coco = photographs(tmp_path, [1, 6, 1])
    Image.new("RGB", (45, 30)).save(tmp_path / "val" / "1.jpg")
    line = r"the image .*/val/1.jpg has 45 x 30 pixels, instances_val.json says 90 x 60; give the images that"
    with pytest.raises(UserError, match=rf"instances_val.json: 1 of 3 images are not as it says: {line}"):
        checked(coco)
    with pytest.raises(UserError, match=line):
        coco.image(1)


def test_missing_and_broken_images_are_found_before_training(tmp_path: Path) -> None:
    coco = photographs(tmp_path, [1, 1, 1])
    whole = (tmp_path / "val" / "2.jpg").read_bytes()
    (tmp_path / "val" / "2.jpg").write_bytes(whole[:-200])
    # Of what is trained on only headers are read, all of what is measured.
    checked(coco)
    with pytest.raises(UserError, match=r"1 of 3 images are not as it says: the image .*/2.jpg, which .* cannot be"):
        checked(coco, measured=True)
    (tmp_path / "val" / "0.jpg").unlink()
    (tmp_path / "val" / "1.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"2 of 3 images .*/0.jpg, which .* names, cannot be read: No such file"):
        checked(coco)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "TIFF", "AVIF", "MPO"])
def test_headers_are_read_of_large_images_in_every_format(kind: str, tmp_path: Path) -> None:
    coco = photographs(tmp_path, [6])
    noise = Image.fromarray(np.random.default_rng(0).integers(256, size=(300, 200, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    options: dict[str, Any] = {"quality": 100} if kind in ("JPEG", "WebP", "AVIF", "MPO") else {}
    noise.save(tmp_path / "val" / "0.jpg", kind, exif=exif, **options)
    assert (tmp_path / "val" / "0.jpg").stat().st_size > 1 << 16
    for size, seen in (((300, 200), Seen(1, upright=1)), ((200, 300), Seen(1, stored=1))):
        document = json.loads(coco.annotations.read_text())
        document["images"][0] |= dict(zip(("width", "height"), size, strict=True))
        coco.annotations.write_text(json.dumps(document))
        assert look_at(CocoSet(coco.annotations), False, 0, SilentProgress()) == seen
        assert CocoSet(coco.annotations).image(0).shape == (*size[::-1], 3)
