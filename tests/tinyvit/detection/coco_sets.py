"""What tests of detection share: a small network, sets of a single image, detectors that say what they are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from tinyvit.config import Detection, Student
from tinyvit.detection.coco import CocoSet
from tinyvit.detection.measure import DetectionEvaluator
from tinyvit.runtime.distributed import World

CPU = World(device=torch.device("cpu"))
STUDENT = Student(
    name="tiny_vit_5m_224",
    kwargs={
        "img_size": 64,
        "embed_dims": [32, 64, 96, 128],
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 2, 3, 4],
        "window_sizes": [8, 8, 4, 2],
    },
)
DETECTION = Detection(channels=32, shorter=(96,), longer=128, anchors=(16, 32, 64, 96, 128), proposals=30, samples=16)


def written(folder: Path, annotations: list[dict[str, Any]], /, **parts: Any) -> CocoSet:
    """A set of one image of 40 x 30 with these annotations, of the categories 7 (dog) and 3 (cat); `parts` are in
    place of those of the document.
    """
    (folder / "some").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30)).save(folder / "some" / "a.jpg")
    document = {
        "images": [{"id": 5, "file_name": "a.jpg", "width": 40, "height": 30}],
        "annotations": [{"id": n, "image_id": 5, **one} for n, one in enumerate(annotations, 1)],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    } | parts
    (folder / "annotations").mkdir(exist_ok=True)
    file = folder / "annotations" / "instances_some.json"
    file.write_text(json.dumps(document))
    return CocoSet(file)


class Foretold(torch.nn.Module):
    """Says what it was told, image by image."""

    def __init__(self, answers: list[dict[str, torch.Tensor]]) -> None:
        super().__init__()
        self._answers = iter(answers)

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        return [next(self._answers) for _ in images]


def measured(coco: CocoSet, answers: list[dict[str, torch.Tensor]], classes: list[str] | None = None) -> dict[str, Any]:
    """COCO's figures of a detector of these classes (the set's) that gives these logits."""
    evaluator = DetectionEvaluator(coco, classes or coco.classes, "the detector", CPU, 0, torch.float32)
    return evaluator.measure(Foretold(answers))
