"""Replay: the one function that makes a view, for the teacher and for the student alike.

`view(image, seed, augment, size)` is a pure function: the same four arguments give the same bytes in any
process. Crop, flip, policy and colours are timm's own transforms (timm.data.transforms_imagenet_train). They
draw from the global generators of random, numpy and torch, so those are seeded for the length of one view and
put back afterwards.

Erasing is ours, for two reasons. timm erases after normalisation, so a teacher and a student with other means
would see other colours in the hole; here it happens on pixels. And its rectangle is drawn in pixels; here it is
drawn as shares of the side, so that it covers the same part of the image at every input size.
"""

from __future__ import annotations

import hashlib
import math
import random
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.transforms_factory import transforms_imagenet_train

from tinyvit.config import Augment

# The global generators belong to the process: two threads must not make views at once.
_GENERATORS = threading.RLock()

# Seeds of one shard: epoch in the upper bits, slot in the lower, so that no two views of an image share one.
SLOT_BITS = 20

MEAN_COLOUR = 255 * np.array(IMAGENET_DEFAULT_MEAN)
STD_COLOUR = 255 * np.array(IMAGENET_DEFAULT_STD)
# timm.data.random_erasing.RandomErasing's defaults
ERASE_AREA = (0.02, 1 / 3)
ERASE_ASPECT = (0.3, 1 / 0.3)


def view_seeds(run_seed: int, shard: str, epoch: int, samples: int) -> NDArray[np.uint32]:
    """[samples] uint32: the seeds of one epoch of one shard.

    Consecutive within an epoch, so that a store compresses them to almost nothing; `view` hashes a seed before
    it uses it. Bound to the shard's name, so that adding shards to a data set changes no other shard's views.
    """
    digest = hashlib.blake2b(f"{run_seed}/{shard}".encode(), digest_size=4).digest()
    first = int.from_bytes(digest, "little") + (epoch << SLOT_BITS)
    return ((first + np.arange(samples, dtype=np.uint64)) & 0xFFFFFFFF).astype(np.uint32)


def view(image: Image.Image, seed: int, augment: Augment, size: int) -> NDArray[np.uint8]:
    """One augmented view of an RGB image: [size, size, 3] uint8, before normalisation."""
    with _seeded(int(seed)) as rng:
        pixels = np.array(_transform(augment, size)(image))
        if augment.erase_prob > 0 and rng.random() < augment.erase_prob:
            _erase(pixels, augment, rng)
    return pixels


def view_digest(pixels: NDArray[np.uint8]) -> int:
    """CRC-32 of a view's pixels, row by row."""
    return zlib.crc32(np.ascontiguousarray(pixels).tobytes())


def probe_slots(samples: int, probes: int) -> list[int]:
    """The slots whose views are checksummed: spread evenly; fewer samples than probes repeat some."""
    return [i * samples // probes for i in range(probes)]


@lru_cache(maxsize=8)
def _transform(augment: Augment, size: int) -> Callable[[Image.Image], Image.Image]:
    primary, secondary, _ = transforms_imagenet_train(
        img_size=size,
        scale=augment.scale,
        ratio=augment.ratio,
        interpolation=augment.interpolation,
        hflip=augment.hflip,
        vflip=augment.vflip,
        auto_augment=augment.auto_augment,
        color_jitter=augment.color_jitter,
        force_color_jitter=augment.force_color_jitter,
        grayscale_prob=augment.grayscale_prob,
        gaussian_blur_prob=augment.gaussian_blur_prob,
        separate=True,
    )
    return lambda image: secondary(primary(image))


@contextmanager
def _seeded(seed: int) -> Iterator[np.random.Generator]:
    """Seed the three global generators for one view, give an own one, and put everything back."""
    words = np.random.SeedSequence(seed).generate_state(4)
    with _GENERATORS:
        before = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
        random.seed(int(words[0]))
        np.random.seed(int(words[1]))
        # Not torch.manual_seed: that would also seed every accelerator.
        torch.random.default_generator.manual_seed(int(words[2]))
        try:
            yield np.random.Generator(np.random.PCG64(int(words[3])))
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
            torch.random.set_rng_state(before[2])


def _erase(pixels: NDArray[np.uint8], augment: Augment, rng: np.random.Generator) -> None:
    """Random erasing (Zhong et al., arXiv 1708.04896) in place, with timm's area and aspect ranges."""
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
    noise = rng.standard_normal(shape if mode == "pixel" else (1, 1, 3)) * (mode != "const")
    colours = np.clip(np.rint(MEAN_COLOUR + STD_COLOUR * noise), 0, 255).astype(np.uint8)
    return np.broadcast_to(colours, shape)
