"""Sets in COCO's format: what is read of them, what is refused and by which name, what COCO's metrics say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coco_sets import measured, written
from support import tinyvit

from tinyvit.data.location import coco_places
from tinyvit.detection.coco import Census, CocoSet
from tinyvit.detection.masks import mask_fault, pycocotools_mask
from tinyvit.errors import UserError

SQUARE = [4, 6, 14, 6, 14, 16, 4, 16]
BOX = {"category_id": 7, "bbox": [4, 6, 10, 10]}


def test_polygons_run_lengths_crowds_and_empty_boxes(tmp_path: Path) -> None:
    lengths = {"size": [30, 40], "counts": [30 * 2, 30 * 3, 30 * 35]}
    coco = written(
        tmp_path,
        [
            {"category_id": 7, "bbox": [4, 6, 10, 10], "segmentation": [SQUARE], "area": 100},
            {"category_id": 3, "bbox": [2, 0, 3, 30], "segmentation": lengths, "area": 90},
            {"category_id": 3, "bbox": [0, 0, 9, 9], "segmentation": lengths, "area": 90, "iscrowd": 1},
            {"category_id": 3, "bbox": [8, 8, 0, 4], "segmentation": [SQUARE], "area": 0},
        ],
    )
    target = coco.target(0, masks=True)
    assert coco.classes == ["cat", "dog"]
    assert target["labels"].tolist() == [2, 1]
    assert target["boxes"].tolist() == [[4, 6, 14, 16], [2, 0, 5, 30]]
    assert target["masks"][0].sum() == 100
    assert target["masks"][1][:, 2:5].all()
    assert target["masks"][1].sum() == 90


def test_what_is_not_cocos_format_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        _ = CocoSet(tmp_path / "annotations" / "instances_none.json").document
    broken = tmp_path / "instances_b.json"
    for content in ("{", "[]", '{"images": []}', '{"images": [{"id": 1}], "annotations": [], "categories": []}'):
        broken.write_text(content)
        with pytest.raises(UserError, match="is not in COCO's format"):
            _ = CocoSet(broken).document
    lost = written(tmp_path, [])
    (tmp_path / "some" / "a.jpg").unlink()
    with pytest.raises(UserError, match=r"the image .*a.jpg, which .* names, cannot be read"):
        lost.image(0)
    done = tinyvit("train", "detect-example", "--data", tmp_path / "none", "--run-dir", tmp_path / "run")
    assert done.returncode == 2
    assert "has no annotations/instances_train*.json" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"category_id": 8}, "annotation 1 has the category_id 8, which is none of the categories"),
        ({"image_id": 9}, "annotation 1 has the image_id 9, which is none of the images"),
        ({"bbox": [4, 6, float("nan"), 10]}, r"annotation 1 has the box \[4, 6, nan, 10\]"),
        ({"bbox": [4, float("inf"), 10, 10]}, r"annotation 1 has the box \[4, inf, 10, 10\]"),
        ({"bbox": [4, 6, -10, 10]}, r"annotation 1 has the box \[4, 6, -10, 10\]"),
        ({"bbox": [4, 6, 10]}, r"annotation 1 has the box \[4, 6, 10\]"),
        ({"area": float("nan")}, "annotation 1 has an area of nan"),
    ],
)
def test_an_annotation_that_cannot_be_is_refused_by_its_id(changed: dict[str, Any], line: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=line):
        len(written(tmp_path, [BOX | changed, BOX]))


IMAGE = {"id": 5, "file_name": "a.jpg", "width": 40, "height": 30}


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        ({"images": [IMAGE, IMAGE | {"file_name": "b.jpg"}]}, "two of the images have the id 5"),
        ({"images": [IMAGE, IMAGE | {"id": 6}]}, "two of the images have the file_name 'a.jpg'"),
        ({"images": [IMAGE | {"width": 0}]}, "the image 5 has a width of 0 and a height of 30"),
        ({"categories": [{"id": 7, "name": "dog"}] * 2}, "two of the categories have the id 7"),
        ({"categories": [{"id": n, "name": "dog"} for n in (7, 8)]}, "two of the categories have the name 'dog'"),
        ({"categories": []}, "it names no categories"),
        ({"annotations": [BOX | {"id": 3, "image_id": 5}] * 2}, "two of the annotations have the id 3"),
    ],
)
def test_what_is_there_twice_or_is_nothing_is_refused_by_its_name(
    parts: dict[str, Any], line: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=line):
        len(written(tmp_path, [], **parts))


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    boxes = [[4, 6, 10, 10], [30, 20, 20, 5], [39.5, 0, 0.8, 9], [5, 5, 0, 4], [5, 5, 0.001, 4], [41, 3, 9, 9]]
    coco = written(tmp_path, [*({"category_id": 7, "bbox": box} for box in boxes), BOX | {"iscrowd": 1}])
    assert coco.census == Census(images=1, objects=3, without=0, crowds=1, empty=2, outside=1, cut=1)
    assert str(coco.census) == (
        "3 objects in 1 images; left out: 1 crowds, 2 boxes without area, 1 boxes outside of the image; "
        "1 boxes are cut at the image's edge"
    )
    right = torch.tensor([[4, 6, 14, 16], [30, 20, 40, 25], [39.5, 0, 40, 9]])
    assert torch.equal(coco.target(0, masks=False)["boxes"], right)
    assert str(written(tmp_path, []).census) == "0 objects in 1 images, 1 of them without any"


@pytest.mark.parametrize(
    ("shape", "line"),
    [
        (None, "it has no segmentation"),
        ([], "it has no segmentation"),
        ([[]], "no polygon of it has three points"),
        ([[4, 6, 14, 16]], "no polygon of it has three points"),
        ([[4, 6, 14, 6, 14, 16, 4]], "no list of x and y"),
        ([[4, 6, 14, 6, 14, float("nan")]], "no list of x and y"),
        (SQUARE, "cannot be read"),
        ({"size": [30, 40]}, "cannot be read"),
        ({"size": [40, 30], "counts": [1200]}, "its mask is 30 x 40, the image 40 x 30"),
        ({"size": [30, 40], "counts": [60, 1200]}, "its run lengths are of 1260 pixels, the image has 1200"),
        ({"size": [30, 40], "counts": [-60, 1200]}, "its run lengths are of 1140 pixels"),
        ({"size": [30, 40], "counts": [60, 90]}, "its run lengths are of 150 pixels"),
        ({"size": [30, 40], "counts": "lRRP1"}, "its run lengths are of"),
        ({"size": [30, 40], "counts": ""}, "its run lengths are of 0 pixels"),
        ({"size": [30, 40], "counts": 7}, "cannot be read"),
    ],
)
def test_what_is_no_mask_is_told(shape: Any, line: str, tmp_path: Path) -> None:
    one = BOX | ({} if shape is None else {"segmentation": shape})
    assert line in (mask_fault(one, (30, 40)) or "")
    with pytest.raises(UserError, match=r"1 of 2 annotations have no mask .* the first is annotation 2 of a.jpg: "):
        written(tmp_path, [BOX | {"segmentation": [SQUARE]}, one]).refuse_missing_masks(measured=False)


def test_compressed_run_lengths_are_read_as_pycocotools_does() -> None:
    rng = np.random.default_rng(0)
    for share in (0.0, 0.001, 0.1, 0.5, 1.0):
        shown = (rng.random((123, 77)) < share).astype(np.uint8)
        compressed = pycocotools_mask().encode(np.asfortranarray(shown))
        for counts in (compressed["counts"], compressed["counts"].decode()):
            assert mask_fault({"segmentation": compressed | {"counts": counts}}, (123, 77)) is None
    assert mask_fault({"segmentation": compressed}, (77, 123)) is not None


def test_a_mask_is_needed_of_what_is_trained_on_or_measured(tmp_path: Path) -> None:
    # Beside a part with an area COCO's readers leave out one without.
    parts = [[4, 6, 14, 16], SQUARE]
    coco = written(tmp_path, [BOX | {"segmentation": parts}, BOX | {"iscrowd": 1}])
    coco.refuse_missing_masks(measured=False)
    assert coco.target(0, masks=True)["masks"].sum() == 100
    with pytest.raises(UserError, match="1 of 2 annotations have no mask"):
        coco.refuse_missing_masks(measured=True)


def test_annotations_without_ids_areas_and_crowds_are_measured(tmp_path: Path) -> None:
    coco = written(tmp_path, [{"id": 0, "category_id": 7, "bbox": [4, 6, 10, 10]}])
    answer = {"boxes": torch.tensor([[4.0, 6, 14, 16]]), "labels": torch.tensor([2]), "scores": torch.ones(1)}
    assert measured(coco, [answer])["ap"] == pytest.approx(100)
    assert measured(written(tmp_path, []), [answer])["ap"] is None


def test_categories_are_matched_by_name(tmp_path: Path) -> None:
    coco = written(tmp_path, [BOX, {"category_id": 3, "bbox": [20, 6, 10, 10]}])
    answer = {
        "boxes": torch.tensor([[4.0, 6, 14, 16], [20, 6, 30, 16]]), "labels": torch.tensor([1, 2]),
        "scores": torch.ones(2),
    }  # fmt: skip
    # The set's own order is cat, dog: by numbers nothing would be right.
    assert measured(coco, [answer], ["dog", "cat"])["ap"] == pytest.approx(100)
    assert measured(coco, [answer])["ap"] == 0
    with pytest.raises(UserError, match=r"than the detector: it lacks 'cow', 'hen' and also has 'cat'; give"):
        measured(coco, [answer], ["dog", "cow", "hen"])


def test_of_several_annotation_files_none_is_taken_by_itself(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    for name in ("train2014", "val2017"):
        (tmp_path / "annotations" / f"instances_{name}.json").touch()
    train, val = coco_places(tmp_path)
    assert (Path(train).name, Path(str(val)).name) == ("instances_train2014.json", "instances_val2017.json")
    (tmp_path / "annotations" / "instances_train2017.json").touch()
    with pytest.raises(UserError, match=r"instances_train2014.json and instances_train2017.json; say which"):
        coco_places(tmp_path)
