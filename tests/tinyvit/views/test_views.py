"""What a view is made of: timm's own augmentation, decoded no larger than its crop needs."""

from __future__ import annotations

import io

import numpy as np
import pytest
import skimage.data
from PIL import Image
from support import encoded
from timm.data.transforms_factory import transforms_imagenet_train

from tinyvit.config import Augment, Decode
from tinyvit.views import view
from tinyvit.views.images import EncodedImage
from tinyvit.views.seeds import own_generators, seed_generators

PHOTOGRAPHS = [Image.fromarray(getattr(skimage.data, name)()) for name in ("astronaut", "chelsea", "coffee", "rocket")]
PLAIN = {"auto_augment": None, "color_jitter": 0.0, "erase_prob": 0.0}


def timms(image: Image.Image, seed: int, augment: Augment, size: int) -> np.ndarray:
    """The same view by timm's transforms alone, on Pillow's images."""
    crop, policy, _ = transforms_imagenet_train(
        img_size=size,
        scale=augment.scale,
        ratio=augment.ratio,
        interpolation=augment.interpolation,
        hflip=augment.hflip,
        vflip=augment.vflip,
        auto_augment=augment.auto_augment,
        color_jitter=augment.color_jitter,
        separate=True,
    )
    with own_generators():
        seed_generators(seed)
        return np.asarray(policy(crop(image))).astype(int)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "random"])
@pytest.mark.parametrize("size", [48, 224, 288])
def test_crop_and_flip_are_timms_to_a_rounding(interpolation: str, size: int) -> None:
    augment = Augment(**PLAIN, interpolation=interpolation, vflip=0.3, reduced_decode=False)
    for seed in range(12):
        image = PHOTOGRAPHS[seed % 4]
        gap = np.abs(view(encoded(image), seed, augment, size) - timms(image, seed, augment, size))
        assert gap.max() <= 2
        assert (gap > 0).mean() < 0.02


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "augmix-m5-w4-d2", "original-mstd0.5", None])
def test_the_policy_is_timms_with_the_same_draws(policy: str | None) -> None:
    augment = Augment(erase_prob=0.0, auto_augment=policy, color_jitter=0.4, reduced_decode=False)
    gaps = []
    for seed in range(24):
        image = PHOTOGRAPHS[seed % 4]
        gaps.append(np.abs(view(encoded(image), seed, augment, 96) - timms(image, seed, augment, 96)).mean())
    # A step of one level becomes more where a policy stretches contrast or cuts at a threshold.
    assert np.median(gaps) < 0.2
    assert max(gaps) < 4


@pytest.mark.parametrize("shape", [(1600, 1200), (1601, 1203), (640, 2000)])
def test_a_large_jpeg_is_decoded_no_larger_than_its_crop_needs(shape: tuple[int, int]) -> None:
    photograph = PHOTOGRAPHS[0].resize(shape, Image.Resampling.BICUBIC)
    reductions = set()
    for seed in range(24):
        whole, small = (
            view(image := encoded(photograph, "JPEG", quality=95), seed, Augment(**PLAIN, reduced_decode=reduce), 96)
            for reduce in (False, True)
        )
        reductions |= set(image._decoded)
        # The crop is rounded to whole reduced pixels: at most half a pixel of the view.
        assert np.corrcoef(whole.ravel(), small.ravel())[0, 1] > 0.97
    assert len(reductions) > 1


def test_what_was_decoded_for_another_view_changes_nothing() -> None:
    large = encoded(PHOTOGRAPHS[1].resize((1500, 1000)), "JPEG")
    seeds = range(12)
    together = [view(large, seed, Augment(), 64) for seed in seeds]
    assert len(large._decoded) > 1
    for seed in reversed(seeds):
        alone = EncodedImage(large._content, Decode())
        assert (view(alone, seed, Augment(), 64) == together[seed]).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}])
def test_a_jpeg_is_what_pillow_makes_of_it(mode: str, options: dict[str, object]) -> None:
    image = encoded(PHOTOGRAPHS[2].convert(mode), "JPEG", quality=90, **options)
    assert image.size == PHOTOGRAPHS[2].size
    assert (image.pixels() == np.asarray(Image.open(io.BytesIO(image._content)).convert("RGB"))).all()
    assert [image.reduction(width, 900, 100) for width in (100, 199, 200, 400, 799, 800)] == [1, 1, 2, 4, 4, 8]


def test_only_a_jpeg_is_reduced() -> None:
    assert encoded(PHOTOGRAPHS[0], "PNG").reduction(512, 512, 16) == 1
