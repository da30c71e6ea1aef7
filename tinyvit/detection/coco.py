"""A set of images with boxes in COCO's format (cocodataset.org/#format-data)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinyvit.config import Decode
from tinyvit.detection.document import name_of, read_document
from tinyvit.detection.masks import decoded_mask, mask_fault, pycocotools_mask
from tinyvit.errors import UserError
from tinyvit.views.images import BrokenImage, EncodedImage

# Pixels: what is thinner has no area. A box of less might have none left once it is resized, or counted from the right.
THIN = 0.01
# Of entries that a message names.
NAMED = 5

# What torchvision's detectors take as the truth about an image, and give as a result.
Target = dict[str, Tensor]


@dataclass(frozen=True)
class Census:
    """What an annotation file has: images, those of them `without` an object, and the objects that are trained on.

    Left out, as torchvision's own training has it, are `crowds`, boxes that have no area (`empty`) and those that lie
    beside their image (`outside`). `cut` are those of which more than a pixel did.
    """

    images: int
    objects: int
    without: int
    crowds: int
    empty: int
    outside: int
    cut: int

    def __str__(self) -> str:
        left_out = {
            "crowds": self.crowds,
            "boxes without area": self.empty,
            "boxes outside of the image": self.outside,
        }
        parts = [f"{count} {name}" for name, count in left_out.items() if count]
        return (
            f"{self.objects} objects in {self.images} images"
            + (f", {self.without} of them without any" if self.without else "")
            + (f"; left out: {', '.join(parts)}" if parts else "")
            + (f"; {self.cut} boxes are cut at the image's edge" if self.cut else "")
        )


@dataclass(frozen=True)
class _Objects:
    """The images of a set and what is in them, small enough to travel to data processes.

    `files` and `sizes` (height, width) of the images; of their objects, image after image, `boxes` [M, 4] (left,
    top, right, bottom), `classes` [M] and their places in the annotation file [M]; `ends` [N] where each image's are.
    """

    files: list[str]
    sizes: list[tuple[int, int]]
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    places: NDArray[np.int64]
    ends: NDArray[np.int64]
    census: Census


@dataclass(frozen=True)
class CocoSet:
    """The images of an annotation file, `instances_NAME.json` in a folder `annotations` beside the folder NAME, which
    are read as `decode` says.
    """

    annotations: Path
    decode: Decode = field(default_factory=Decode)

    def __getstate__(self) -> dict[str, Any]:
        # Not the document, which takes gigabytes of COCO's size.
        return {"annotations": self.annotations, "decode": self.decode, "_objects": self._objects}

    @property
    def folder(self) -> Path:
        """Where the images are."""
        return self.annotations.parent.parent / self.annotations.stem.removeprefix("instances_")

    @cached_property
    def document(self) -> dict[str, Any]:
        """The annotation file. UserError when it is none."""
        return read_document(self.annotations)

    @cached_property
    def categories(self) -> list[dict[str, Any]]:
        """Those of the file, by their ids; class n of a detector is the n-th, from 1 on."""
        return sorted(self.document["categories"], key=lambda category: int(category["id"]))

    @property
    def classes(self) -> list[str]:
        """Their names."""
        return [str(category["name"]) for category in self.categories]

    def category_ids(self, names: Sequence[str], whose: str) -> list[int]:
        """The ids of the categories with these names. UserError, which says which, where the file lacks some, or has
        objects of others.
        """
        ids = {str(category["name"]): int(category["id"]) for category in self.categories}
        used = {int(one["category_id"]) for one in self.document["annotations"]}
        lacks = [name for name in names if name not in ids]
        besides = [name for name, number in ids.items() if name not in set(names) and number in used]
        if lacks or besides:
            parts = [f"{verb} {_listed(found)}" for verb, found in (("lacks", lacks), ("also has", besides)) if found]
            raise UserError(
                f"{self.annotations} has other categories than {whose}: it {' and '.join(parts)}; give data of the same"
            )
        return [ids[name] for name in names]

    @cached_property
    def _number_of(self) -> dict[Any, int]:
        """The images by their ids."""
        return {image["id"]: number for number, image in enumerate(self.document["images"])}

    @cached_property
    def _objects(self) -> _Objects:
        images, annotations = self.document["images"], self.document["annotations"]
        sizes = [(int(image["height"]), int(image["width"])) for image in images]
        class_of = {category["id"]: number for number, category in enumerate(self.categories, 1)}
        image = np.array([self._number_of[one["image_id"]] for one in annotations], np.int64)
        crowds = np.array([bool(one.get("iscrowd")) for one in annotations], np.bool_)
        whole = np.array([one["bbox"] for one in annotations], np.float64).reshape(-1, 4)
        empty = (whole[:, 2:] < THIN).any(axis=1) & ~crowds
        whole[:, 2:] += whole[:, :2]
        # As torchvision's own training has it.
        boxes = whole.clip(0, np.array(sizes)[image][:, [1, 0, 1, 0]])
        outside = (boxes[:, 2:] - boxes[:, :2] < THIN).any(axis=1) & ~crowds & ~empty
        kept = np.flatnonzero(~(crowds | empty | outside))
        places = kept[np.argsort(image[kept], kind="stable")]
        counts = np.bincount(image[places], minlength=len(images))
        return _Objects(
            files=[str(entry["file_name"]) for entry in images],
            sizes=sizes,
            boxes=boxes[places].astype(np.float32),
            classes=np.array([class_of[annotations[place]["category_id"]] for place in places], np.int64),
            places=places,
            ends=np.cumsum(counts),
            census=Census(
                images=len(images),
                objects=len(places),
                without=int((counts == 0).sum()),
                crowds=int(crowds.sum()),
                empty=int(empty.sum()),
                outside=int(outside.sum()),
                cut=int((abs(boxes - whole).max(axis=1) > 1)[places].sum()),
            ),
        )

    def __len__(self) -> int:
        return len(self._objects.files)

    @property
    def census(self) -> Census:
        """What the file has and what of it is trained on."""
        return self._objects.census

    def digest(self) -> str:
        """SHA-256 of the annotation file."""
        return hashlib.sha256(self.annotations.read_bytes()).hexdigest()

    def file_name(self, number: int) -> str:
        """What an image is called in the file."""
        return self._objects.files[number]

    def size_of(self, annotation: dict[str, Any]) -> tuple[int, int]:
        """Height and width of an annotation's image, by the file."""
        return self._objects.sizes[self._number_of[annotation["image_id"]]]

    def refuse_missing_masks(self, measured: bool) -> None:
        """UserError unless every object that is trained on has a mask; of a set that is to be `measured` on every
        annotation, for COCO's metrics look at all of them.
        """
        pycocotools_mask()
        annotations = self.document["annotations"]
        places = range(len(annotations)) if measured else self._objects.places.tolist()
        faults = []
        for place in places:
            one = annotations[place]
            if fault := mask_fault(one, self.size_of(one)):
                file = self.file_name(self._number_of[one["image_id"]])
                faults.append(f"{name_of(one, place)} of {file}: {fault}")
        if faults:
            raise UserError(
                f"{self.annotations}: {len(faults)} of {len(places)} annotations have no mask that can be read, the "
                f"first is {faults[0]}; mend them, or look for boxes only (detection.head=faster_rcnn)"
            )

    def file(self, number: int) -> Path:
        """Where an image is."""
        return self.folder / self._objects.files[number]

    def size(self, number: int) -> tuple[int, int]:
        """Width and height of an image, by the file."""
        height, width = self._objects.sizes[number]
        return width, height

    def image(self, number: int) -> NDArray[np.uint8]:
        """Pixels [H, W, 3] of an image, of the size that the file says: read as `decode` has it, or where only that
        agrees, the other way. UserError when it is not there, cannot be decoded or has another size.
        """
        try:
            content = self.file(number).read_bytes()
            image = EncodedImage(content, self.decode)
            if image.size != self.size(number):
                other = "ignore" if self.decode.orientation == "exif" else "exif"
                image = EncodedImage(content, self.decode.model_copy(update={"orientation": other}))
            if image.size != self.size(number):
                raise self.other_size(number, image.size)
            return image.pixels()
        except (OSError, BrokenImage) as fault:
            raise self.unreadable(number, fault) from fault

    def other_size(self, number: int, found: tuple[int, int]) -> UserError:
        """That an image has not the size that the file says."""
        there, said = (f"{width} x {height}" for width, height in (found, self.size(number)))
        return UserError(
            f"the image {self.file(number)} has {there} pixels, {self.annotations.name} says {said}; "
            f"give the images that were annotated"
        )

    def unreadable(self, number: int, fault: Exception) -> UserError:
        """That an image is missing or broken."""
        why = fault.strerror if isinstance(fault, OSError) else fault
        return UserError(f"the image {self.file(number)}, which {self.annotations.name} names, cannot be read: {why}")

    def read_as(self, decode: Decode) -> CocoSet:
        """The same set, read otherwise."""
        other = CocoSet(self.annotations, decode)
        # With all that was read of it.
        vars(other).update(vars(self) | {"decode": decode})
        return other

    def target(self, number: int, masks: bool) -> Target:
        """Boxes [n, 4] (left, top, right, bottom in pixels) and labels [n] of an image's objects, with `masks` also
        their masks [n, H, W] uint8, which were looked at before (`refuse_missing_masks`).
        """
        objects = self._objects
        here = slice(objects.ends[number - 1] if number else 0, objects.ends[number])
        target = {
            "boxes": torch.from_numpy(objects.boxes[here].copy()),
            "labels": torch.from_numpy(objects.classes[here].copy()),
        }
        if masks:
            size, annotations = objects.sizes[number], self.document["annotations"]
            shown = [decoded_mask(annotations[place], size) for place in objects.places[here].tolist()]
            target["masks"] = torch.from_numpy(np.stack(shown) if shown else np.zeros((0, *size), np.uint8))
        return target


def _listed(names: Sequence[str]) -> str:
    """Names for a message, of many the first."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(repr(name) for name in names[:NAMED]) + more
