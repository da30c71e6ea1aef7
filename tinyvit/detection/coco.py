"""A set of pictures with boxes in COCO's format (cocodataset.org/#format-data)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from storage import digest_of
from tinyvit.data.images import BrokenImage, EncodedImage
from tinyvit.errors import UserError

# What is needed of each part of an annotation file.
WANTED = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("image_id", "bbox", "category_id"),
    "categories": ("id", "name"),
}
# What torchvision's detectors take as the truth about a picture, and give as an answer.
Target = dict[str, Tensor]


@dataclass(frozen=True)
class CocoSet:
    """The pictures of an annotation file, `instances_NAME.json` in a folder `annotations` beside the folder NAME."""

    annotations: Path

    @property
    def folder(self) -> Path:
        """Where the pictures are."""
        return self.annotations.parent.parent / self.annotations.stem.removeprefix("instances_")

    @cached_property
    def document(self) -> dict[str, Any]:
        """The annotation file. UserError when it is none."""
        try:
            document = json.loads(self.annotations.read_bytes())
            wanted = {
                "images": ("id", "file_name"),
                "annotations": ("image_id", "bbox", "category_id"),
                "categories": ("id", "name"),
            }
            for part, names in wanted.items():
                if document[part] and not set(names) <= document[part][0].keys():
                    raise KeyError(f"{part} without {', '.join(names)}")
        except OSError as fault:
            raise UserError(f"{self.annotations} cannot be read: {fault.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as fault:
            raise UserError(f"{self.annotations} is not in COCO's format ({fault}); mend it") from None
        if not document["images"]:
            raise UserError(f"{self.annotations} names no pictures")
        found: dict[str, Any] = document
        return found

    @cached_property
    def categories(self) -> list[dict[str, Any]]:
        """Those of the file, by their ids; class n of a detector is the n-th, from 1 on."""
        return sorted(self.document["categories"], key=lambda category: int(category["id"]))

    @property
    def classes(self) -> list[str]:
        """Their names."""
        return [str(category["name"]) for category in self.categories]

    @cached_property
    def _by_image(self) -> dict[int, list[dict[str, Any]]]:
        by_image: dict[int, list[dict[str, Any]]] = {}
        for annotation in self.document["annotations"]:
            by_image.setdefault(annotation["image_id"], []).append(annotation)
        return by_image

    @cached_property
    def _class_of(self) -> dict[int, int]:
        return {category["id"]: number for number, category in enumerate(self.categories, 1)}

    def __len__(self) -> int:
        return len(self.document["images"])

    def digest(self) -> str:
        """SHA-256 of what is annotated."""
        return digest_of(self.document)

    def picture(self, number: int) -> NDArray[np.uint8]:
        """Pixels [H, W, 3] of a picture. UserError when it is not there or cannot be decoded."""
        file = self.folder / self.document["images"][number]["file_name"]
        try:
            return EncodedImage(file.read_bytes()).pixels()
        except (OSError, BrokenImage) as fault:
            raise UserError(f"the picture {file} cannot be read ({fault}); {self.annotations.name} names it") from None

    def target(self, number: int, masks: bool) -> Target:
        """Boxes [n, 4] (left, top, right, bottom in pixels) and labels [n] of a picture's objects, with `masks` also
        their masks [n, H, W] uint8. Crowds and boxes without an area are left out, as torchvision's own training does.
        """
        image = self.document["images"][number]
        objects = [
            annotation
            for annotation in self._by_image.get(image["id"], [])
            if not annotation.get("iscrowd") and min(annotation["bbox"][2:]) > 0
        ]
        boxes = torch.tensor([a["bbox"] for a in objects], dtype=torch.float32).view(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        target = {
            "boxes": boxes,
            "labels": torch.tensor([self._class_of[a["category_id"]] for a in objects], dtype=torch.int64),
        }
        if masks:
            size = (int(image["height"]), int(image["width"]))
            shown = [_mask(annotation, size) for annotation in objects]
            target["masks"] = torch.from_numpy(np.stack(shown) if shown else np.zeros((0, *size), np.uint8))
        return target


def _mask(annotation: dict[str, Any], size: tuple[int, int]) -> NDArray[np.uint8]:
    """[H, W] of an annotation: polygons, or run lengths, compressed or not."""
    from pycocotools import mask as masks

    shape = annotation["segmentation"]
    if isinstance(shape, list):
        encoded = masks.merge(masks.frPyObjects(shape, *size))
    else:
        encoded = masks.frPyObjects(shape, *size) if isinstance(shape["counts"], list) else shape
    decoded: NDArray[np.uint8] = masks.decode(encoded)
    return decoded
