"""The masks of COCO's format: polygons, or run lengths, compressed or not."""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyvit.errors import UserError

# Numbers of the smallest polygon, a triangle. pycocotools takes one of two points for a box.
TRIANGLE = 6


def pycocotools_mask() -> Any:
    """The module of masks. UserError where it is not installed."""
    try:
        from pycocotools import mask
    except ImportError as fault:
        raise UserError("COCO's masks and metrics need pycocotools: pip install 'tinyvit-distill[transfer]'") from fault
    return mask


def mask_fault(annotation: dict[str, Any], size: tuple[int, int]) -> str | None:
    """Why an annotation has no mask of an image of this size (height, width); None where it has one."""
    if not (shape := annotation.get("segmentation")):
        return "it has no segmentation"
    try:
        return _polygons_fault(shape) if isinstance(shape, list) else _lengths_fault(shape, size)
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as fault:
        return f"its segmentation cannot be read ({fault!r})"


def encoded_mask(annotation: dict[str, Any], size: tuple[int, int]) -> Any:
    """The mask of an annotation without a fault as pycocotools computes with it."""
    masks, shape = pycocotools_mask(), annotation["segmentation"]
    if isinstance(shape, list):
        # Parts of fewer points have no area, and COCO's own readers leave them out.
        return masks.merge(masks.frPyObjects([part for part in shape if len(part) >= TRIANGLE], *size))
    return masks.frPyObjects(shape, *size) if isinstance(shape["counts"], list) else shape


def decoded_mask(annotation: dict[str, Any], size: tuple[int, int]) -> NDArray[np.uint8]:
    """[H, W] of an annotation without a fault."""
    decoded: NDArray[np.uint8] = pycocotools_mask().decode(encoded_mask(annotation, size))
    return decoded


def _polygons_fault(shape: list[list[float]]) -> str | None:
    if not any(len(part) >= TRIANGLE for part in shape):
        return "no polygon of it has three points"
    if wrong := [part for part in shape if len(part) % 2 or not isfinite(sum(part))]:
        return f"a polygon of it is no list of x and y ({len(wrong[0])} numbers)"
    return None


def _lengths_fault(shape: dict[str, Any], size: tuple[int, int]) -> str | None:
    if tuple(shape["size"]) != size:
        height, width = shape["size"]
        return f"its mask is {width} x {height}, the image {size[1]} x {size[0]}"
    counts = shape["counts"]
    lengths = counts if isinstance(counts, list) else _lengths(counts)
    # Where they end early, pycocotools leaves in the rest what stood in the memory before.
    if min(lengths, default=0) < 0 or sum(lengths) != size[0] * size[1]:
        return f"its run lengths are of {sum(lengths)} pixels, the image has {size[0] * size[1]}"
    return None


def _lengths(compressed: str | bytes) -> list[int]:
    """Run lengths from COCO's characters (rleFrString in its maskApi.c): of a number the lowest five bits come first, a
    sixth says that there are more, and from the fourth on a number is the difference to the last but one.
    """
    lengths = list[int]()
    value = shift = 0
    for code in compressed.encode() if isinstance(compressed, str) else compressed:
        bits = code - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    return lengths
