"""A set of pictures with boxes in COCO's format (cocodataset.org/#format-data)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinyvit.config import Decode
from tinyvit.data.images import BrokenImage, EncodedImage
from tinyvit.errors import UserError

# What is needed of each part of an annotation file.
WANTED = {
    "images": {"id", "file_name", "width", "height"},
    "annotations": {"image_id", "bbox", "category_id"},
    "categories": {"id", "name"},
}
# What torchvision's detectors take as the truth about a picture, and give as an answer.
Target = dict[str, Tensor]


@dataclass(frozen=True)
class _Objects:
    """The pictures of a set and what is in them, small enough to travel to data processes.

    `files` and `sizes` (height, width) of the pictures; of their objects, picture after picture, `boxes` [M, 4] (left,
    top, width, height), `classes` [M] and their places in the annotation file [M]; `ends` [N] where each picture's are.
    """

    files: list[str]
    sizes: list[tuple[int, int]]
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    places: NDArray[np.int64]
    ends: NDArray[np.int64]


@dataclass(frozen=True)
class CocoSet:
    """The pictures of an annotation file, `instances_NAME.json` in a folder `annotations` beside the folder NAME, which
    are read as `decode` says.
    """

    annotations: Path
    decode: Decode = field(default_factory=Decode)

    def __getstate__(self) -> dict[str, Any]:
        # Not the document, which takes gigabytes of COCO's size.
        return {"annotations": self.annotations, "decode": self.decode, "_objects": self._objects}

    @property
    def folder(self) -> Path:
        """Where the pictures are."""
        return self.annotations.parent.parent / self.annotations.stem.removeprefix("instances_")

    @cached_property
    def document(self) -> dict[str, Any]:
        """The annotation file. UserError when it is none."""
        try:
            document: dict[str, Any] = json.loads(self.annotations.read_bytes())
            for part, names in WANTED.items():
                if wrong := [entry for entry in document[part] if not names <= entry.keys()]:
                    raise ValueError(f"{part} need {', '.join(sorted(names))}; an entry has {', '.join(wrong[0])}")
        except OSError as fault:
            raise UserError(f"{self.annotations} cannot be read: {fault.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as fault:
            raise UserError(f"{self.annotations} is not in COCO's format ({fault}); mend it") from None
        if not document["images"]:
            raise UserError(f"{self.annotations} names no pictures")
        return document

    @cached_property
    def categories(self) -> list[dict[str, Any]]:
        """Those of the file, by their ids; class n of a detector is the n-th, from 1 on."""
        return sorted(self.document["categories"], key=lambda category: int(category["id"]))

    @property
    def classes(self) -> list[str]:
        """Their names."""
        return [str(category["name"]) for category in self.categories]

    @cached_property
    def _objects(self) -> _Objects:
        """Without crowds and boxes that have no area, as torchvision's own training has it."""
        images = self.document["images"]
        class_of = {category["id"]: number for number, category in enumerate(self.categories, 1)}
        found: dict[int, list[tuple[int, dict[str, Any]]]] = {image["id"]: [] for image in images}
        try:
            for place, one in enumerate(self.document["annotations"]):
                if not one.get("iscrowd") and min(one["bbox"][2:]) > 0:
                    found[one["image_id"]].append((place, one))
            kept = [entry for image in images for entry in found[image["id"]]]
            return _Objects(
                files=[str(image["file_name"]) for image in images],
                sizes=[(int(image["height"]), int(image["width"])) for image in images],
                boxes=np.array([one["bbox"] for _, one in kept], np.float32).reshape(-1, 4),
                classes=np.array([class_of[one["category_id"]] for _, one in kept], np.int64),
                places=np.array([place for place, _ in kept], np.int64),
                ends=np.cumsum([len(found[image["id"]]) for image in images]),
            )
        except KeyError as fault:
            raise UserError(
                f"{self.annotations} has an annotation of a picture or category {fault} that it does not name; mend it"
            ) from None
        except (ValueError, TypeError) as fault:
            raise UserError(f"{self.annotations} is not in COCO's format ({fault}); mend it") from None

    def __len__(self) -> int:
        return len(self._objects.files)

    def digest(self) -> str:
        """SHA-256 of the annotation file."""
        return hashlib.sha256(self.annotations.read_bytes()).hexdigest()

    def file_name(self, number: int) -> str:
        """What a picture is called in the file."""
        return self._objects.files[number]

    def picture(self, number: int) -> NDArray[np.uint8]:
        """Pixels [H, W, 3] of a picture. UserError when it is not there or cannot be decoded."""
        file = self.folder / self._objects.files[number]
        try:
            return EncodedImage(file.read_bytes(), self.decode).pixels()
        except (OSError, BrokenImage) as fault:
            raise UserError(f"the picture {file} cannot be read ({fault}); {self.annotations.name} names it") from None

    def target(self, number: int, masks: bool) -> Target:
        """Boxes [n, 4] (left, top, right, bottom in pixels) and labels [n] of a picture's objects, with `masks` also
        their masks [n, H, W] uint8. UserError for an object whose mask cannot be read.
        """
        objects = self._objects
        here = slice(objects.ends[number - 1] if number else 0, objects.ends[number])
        boxes = torch.from_numpy(objects.boxes[here].copy())
        boxes[:, 2:] += boxes[:, :2]
        target = {"boxes": boxes, "labels": torch.from_numpy(objects.classes[here].copy())}
        if masks:
            size, annotations = objects.sizes[number], self.document["annotations"]
            shown = [self._mask(annotations[place], size) for place in objects.places[here].tolist()]
            target["masks"] = torch.from_numpy(np.stack(shown) if shown else np.zeros((0, *size), np.uint8))
        return target

    def _mask(self, annotation: dict[str, Any], size: tuple[int, int]) -> NDArray[np.uint8]:
        """[H, W] of an annotation: polygons, or run lengths, compressed or not."""
        masks = pycocotools_mask()
        try:
            shape = annotation["segmentation"]
            if isinstance(shape, list):
                encoded = masks.merge(masks.frPyObjects(shape, *size))
            else:
                encoded = masks.frPyObjects(shape, *size) if isinstance(shape["counts"], list) else shape
            decoded: NDArray[np.uint8] = masks.decode(encoded)
            return decoded
        except (KeyError, IndexError, TypeError, ValueError) as fault:
            raise UserError(
                f"{self.annotations}: a mask cannot be read ({fault!r}); mend it, or use boxes only"
            ) from None


def pycocotools_mask() -> Any:
    """The module of masks. UserError where it is not installed."""
    try:
        from pycocotools import mask
    except ImportError:
        raise UserError("COCO's masks and metrics need pycocotools: pip install 'tinyvit-distill[transfer]'") from None
    return mask
