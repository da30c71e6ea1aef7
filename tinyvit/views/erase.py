"""Random erasing (Zhong et al., arXiv 1708.04896) with timm's ranges, on pixels.

Ours, for two reasons. timm erases after normalisation, so a teacher and a student with other means would see other
colours in the hole. And its rectangle is drawn in pixels; here it is drawn as shares of the side, so that it covers
the same part of the image at every input size.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from tinyvit.config import Augment

MEAN_COLOUR = 255 * np.array(IMAGENET_DEFAULT_MEAN, np.float32)
STD_COLOUR = 255 * np.array(IMAGENET_DEFAULT_STD, np.float32)
# timm.data.random_erasing.RandomErasing's defaults
ERASE_AREA = (0.02, 1 / 3)
ERASE_ASPECT = (0.3, 1 / 0.3)


def erase(pixels: NDArray[np.uint8], augment: Augment, seed: np.random.SeedSequence) -> None:
    """Erase rectangles of a view [H, W, 3] in place, or none, as a child of the view's seed says."""
    if not augment.erase_prob:
        return
    rng = np.random.Generator(np.random.PCG64(seed.spawn(1)[0]))
    if rng.random() >= augment.erase_prob:
        return
    size = pixels.shape[0]
    count = int(rng.integers(1, augment.erase_count + 1))
    for _ in range(count):
        for _attempt in range(10):
            area = rng.uniform(*ERASE_AREA) / count
            aspect = math.exp(rng.uniform(math.log(ERASE_ASPECT[0]), math.log(ERASE_ASPECT[1])))
            height, width = math.sqrt(area * aspect), math.sqrt(area / aspect)
            if height < 1 and width < 1:
                top, left = rng.uniform(0, 1 - height), rng.uniform(0, 1 - width)
                rows = slice(round(top * size), round((top + height) * size))
                columns = slice(round(left * size), round((left + width) * size))
                hole = pixels[rows, columns]
                hole[:] = _fill(augment.erase_mode, hole.shape, rng)
                break


def _fill(mode: str, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.uint8]:
    """What stands in the hole: the mean colour, one random colour or random pixels, around ImageNet's mean."""
    if mode == "const":
        return np.broadcast_to(np.rint(MEAN_COLOUR).astype(np.uint8), shape)
    colours = rng.standard_normal(shape if mode == "pixel" else (1, 1, 3), np.float32)
    # In place: a hole of the largest size is 50,000 numbers. 0.5 is for rounding, which uint8 does not do.
    colours *= STD_COLOUR
    colours += MEAN_COLOUR + np.float32(0.5)
    np.clip(colours, 0, 255, out=colours)
    return np.broadcast_to(colours.astype(np.uint8), shape)
