"""An annotation file in COCO's format (cocodataset.org/#format-data), checked before anything is learned from it."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable
from math import isfinite
from pathlib import Path
from typing import Any

from tinyvit.errors import UserError

# What is needed of each part of an annotation file.
WANTED = {
    "images": {"id", "file_name", "width", "height"},
    "annotations": {"image_id", "bbox", "category_id"},
    "categories": {"id", "name"},
}
# What no two entries of a part may share. An annotation needs no id; an image that is named twice would have half of
# its objects each time, a name that two categories have says of neither which it is.
UNIQUE = (
    ("images", "id"),
    ("images", "file_name"),
    ("annotations", "id"),
    ("categories", "id"),
    ("categories", "name"),
)


def read_document(file: Path) -> dict[str, Any]:
    """The content of an annotation file. UserError, which names the entry, for one that is not in the format."""
    try:
        document: dict[str, Any] = json.loads(file.read_bytes())
        _check(document)
    except OSError as fault:
        raise UserError(f"{file} cannot be read: {fault.strerror}") from fault
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise UserError(f"{file} is not in COCO's format ({fault}); mend it") from fault
    return document


def name_of(annotation: dict[str, Any], place: int) -> str:
    """What an annotation is called in a message: by its id, else by its place in the file."""
    return f"annotation {annotation['id']}" if "id" in annotation else f"the annotation at place {place + 1}"


def _check(document: dict[str, Any]) -> None:
    """ValueError, or what Python says of another type, for a fault."""
    for part, names in WANTED.items():
        if wrong := [entry for entry in document[part] if not names <= entry.keys()]:
            raise ValueError(f"{part} need {', '.join(sorted(names))}; an entry has {', '.join(wrong[0])}")
        if not document[part] and part != "annotations":
            raise ValueError(f"it names no {part}")
    for part, field in UNIQUE:
        values = (entry[field] for entry in document[part] if field in entry)
        if (twice := _twice(values)) is not None:
            raise ValueError(f"two of the {part} have the {field} {twice!r}")
    for image in document["images"]:
        sides = image["width"], image["height"]
        if any(int(side) != side or side < 1 for side in sides):
            raise ValueError(f"the image {image['id']!r} has a width of {sides[0]!r} and a height of {sides[1]!r}")
    known = {part: {entry["id"] for entry in document[part]} for part in ("images", "categories")}
    for place, one in enumerate(document["annotations"]):
        _check_annotation(one, name_of(one, place), known)


def _check_annotation(one: dict[str, Any], name: str, known: dict[str, set[Any]]) -> None:
    box = one["bbox"]
    if not isinstance(box, list) or not all(isinstance(side, int | float) for side in box):
        raise ValueError(f"{name} has the box {box!r}: left, top, width and height in pixels are wanted")
    if len(box) != 4 or not all(map(isfinite, box)) or min(box[2:]) < 0:
        raise ValueError(f"{name} has the box {box}: left, top, width and height in pixels are wanted")
    if not (isfinite(area := one.get("area", 0)) and area >= 0):
        raise ValueError(f"{name} has an area of {area}")
    for part, field in (("images", "image_id"), ("categories", "category_id")):
        if one[field] not in known[part]:
            raise ValueError(f"{name} has the {field} {one[field]!r}, which is none of the {part}")


def _twice(values: Iterable[Hashable]) -> Hashable | None:
    """The first value that was there before."""
    seen = set[Hashable]()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None
