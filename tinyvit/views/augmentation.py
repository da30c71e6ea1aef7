"""One view of an image, and many.

What is drawn is drawn by timm's own code (timm.data.transforms_imagenet_train), which takes from the global
generators of random, numpy and torch; they are seeded for each view. Crop and flip are applied here: torch resizes
bytes as Pillow does (no pixel differs by more than 2) in a quarter of the time, alike on every processor.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from timm.data.transforms_factory import transforms_imagenet_train
from torch.nn.functional import interpolate
from torchvision.transforms import Compose, RandomHorizontalFlip, RandomVerticalFlip

from tinyvit.config import Augment
from tinyvit.views.erase import erase
from tinyvit.views.images import BrokenImage, EncodedImage
from tinyvit.views.mix import mix_of
from tinyvit.views.seeds import own_generators, seed_generators

Pixels = NDArray[np.uint8]


class NoView(Exception):
    """Making the view of a slot from its seed raised what no image is meant to raise, which is the cause."""

    def __init__(self, slot: int, seed: int) -> None:
        super().__init__(f"slot {slot}, seed {seed}")
        self.slot, self.seed = slot, seed


def view(image: EncodedImage, seed: int, augment: Augment, size: int) -> Pixels:
    """One augmented view of an image, not mixed: [size, size, 3] uint8, before normalisation."""
    with own_generators():
        return _view(image, seed, augment, size)


def views(
    images: Mapping[int, EncodedImage],
    slots: Sequence[int],
    seeds: NDArray[np.uint32],
    partner: NDArray[np.intp],
    augment: Augment,
    size: int,
) -> dict[int, Pixels | BrokenImage]:
    """The views of some slots of an epoch of a shard, mixed with their partners'; a fault where there is none.

    `images` has the images of these slots and of their partners by slot, `seeds` and `partner` are those of the
    whole shard. NoView for an image that the augmentation cannot cope with.
    """
    # A policy that timm does not know is no image's fault.
    _transforms(augment, size)
    plain: dict[int, Pixels | BrokenImage] = {}
    with own_generators():
        for slot in {*slots, *(int(partner[slot]) for slot in slots)}:
            try:
                plain[slot] = _view(images[slot], int(seeds[slot]), augment, size)
            except BrokenImage as fault:
                plain[slot] = BrokenImage(str(fault), slot)
            except Exception as fault:
                raise NoView(slot, int(seeds[slot])) from fault
    return {slot: _mixed(slot, int(partner[slot]), plain, seeds, augment) for slot in slots}


def _mixed(
    slot: int,
    partner: int,
    plain: Mapping[int, Pixels | BrokenImage],
    seeds: NDArray[np.uint32],
    augment: Augment,
) -> Pixels | BrokenImage:
    own, other = plain[slot], plain[partner]
    if partner == slot or isinstance(own, BrokenImage):
        return own
    if isinstance(other, BrokenImage):
        return other
    mix = mix_of(int(seeds[slot]), int(seeds[partner]), augment)
    return mix.apply(own, other) if mix else own


def _view(image: EncodedImage, seed: int, augment: Augment, size: int) -> Pixels:
    sequence = seed_generators(seed)
    crop, flips, policy = _transforms(augment, size)
    if isinstance(crop, RandomResizedCropAndInterpolation):
        pixels = _cropped(image, crop, size, augment.reduced_decode)
    else:
        pixels = torch.from_numpy(np.array(crop(Image.fromarray(image.pixels())))).permute(2, 0, 1)
    for flip in flips:
        pixels = flip(pixels)
    made = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
    if policy.transforms:
        made = np.array(policy(Image.fromarray(made)))
    erase(made, augment, sequence)
    return made


def _cropped(image: EncodedImage, crop: RandomResizedCropAndInterpolation, size: int, reduce: bool) -> torch.Tensor:
    """timm's random resized crop [3, size, size], from an image that is decoded no larger than the crop needs."""
    columns, rows = image.size
    whole = torch.empty(3, rows, columns, device="meta")
    top, left, height, width = crop.get_params(whole, crop.scale, crop.ratio)
    # Of an image of few pixels timm rounds the crop to none, at its very edge.
    height, width = max(1, height), max(1, width)
    top, left = min(top, rows - height), min(left, columns - width)
    modes = crop.interpolation
    mode = random.choice(modes) if isinstance(modes, (tuple, list)) else modes
    reduction = image.reduction(width, height, size) if reduce else 1
    down = slice(round(top / reduction), round((top + height) / reduction))
    across = slice(round(left / reduction), round((left + width) / reduction))
    part = torch.from_numpy(image.pixels(reduction)[down, across]).permute(2, 0, 1)[None]
    # In this order of memory it is three times as fast, and the next step needs no other.
    part = part.contiguous(memory_format=torch.channels_last)
    return interpolate(part, (size, size), mode=mode.value, antialias=True)[0]


@lru_cache(maxsize=8)
def _transforms(augment: Augment, size: int) -> tuple[Callable[[Any], Any], list[Callable[[Any], Any]], Compose]:
    """timm's crop, its flips and what it does to colours and shapes."""
    primary, secondary, _ = transforms_imagenet_train(
        img_size=size,
        scale=augment.scale,
        ratio=augment.ratio,
        train_crop_mode=augment.crop_mode,
        interpolation=augment.interpolation,
        hflip=augment.hflip,
        vflip=augment.vflip,
        auto_augment=augment.auto_augment,
        # 0 would be a step that does nothing, in a tenth of a millisecond.
        color_jitter=augment.color_jitter or None,  # type: ignore[arg-type]
        color_jitter_prob=augment.color_jitter_prob,
        force_color_jitter=augment.force_color_jitter,
        grayscale_prob=augment.grayscale_prob,
        gaussian_blur_prob=augment.gaussian_blur_prob,
        separate=True,
    )
    crops = [step for step in primary.transforms if not isinstance(step, (RandomHorizontalFlip, RandomVerticalFlip))]
    flips = [step for step in primary.transforms if step not in crops]
    return (crops[0] if len(crops) == 1 else Compose(crops)), flips, secondary  # type: ignore[no-untyped-call]
