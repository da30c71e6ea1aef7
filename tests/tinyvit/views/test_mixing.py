"""Mixup and cutmix by seed: the same mixture for teacher and student, at any size, as timm mixes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from support import encoded
from timm.data.mixup import Mixup

from tinyvit.config import Augment, load_recipe
from tinyvit.errors import UserError
from tinyvit.views import mix_of, partners, view, view_seeds, views

PLAIN = {"auto_augment": None, "color_jitter": 0.0, "erase_prob": 0.0, "scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
MIXUP = Augment(**PLAIN, mixup_alpha=0.8)
CUTMIX = Augment(**PLAIN, cutmix_alpha=1.0)
BOTH = Augment(**PLAIN, mixup_alpha=0.8, cutmix_alpha=1.0, mix_switch_prob=0.25, mix_prob=0.5)
SEEDS = view_seeds(0, "a.tar", 0, 101)


def photographs(count: int) -> dict[int, Image.Image]:
    rng = np.random.default_rng(0)
    return {i: Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)) for i in range(count)}


@pytest.mark.parametrize("augment", [MIXUP, CUTMIX, BOTH])
def test_a_mixed_view_is_made_of_both_plain_ones(augment: Augment) -> None:
    images = {slot: encoded(photograph) for slot, photograph in photographs(101).items()}
    partner = partners(SEEDS, augment)
    made = views(images, range(101), SEEDS, partner, augment, 40)
    plain = {slot: view(image, int(SEEDS[slot]), augment, 40).astype(float) for slot, image in images.items()}
    kinds = set()
    for slot, other in enumerate(partner):
        mix = mix_of(int(SEEDS[slot]), int(SEEDS[other]), augment) if other != slot else None
        found = made[slot].astype(float)  # type: ignore[union-attr]
        own, theirs = plain[slot], plain[int(other)]
        if mix is None:
            kinds.add("none")
            assert (found == own).all()
        elif mix.box is None:
            kinds.add("mixup")
            assert np.abs(found - (mix.share * own + (1 - mix.share) * theirs)).max() <= 0.5
        else:
            kinds.add("cutmix")
            pasted = (found == theirs).all(axis=2)
            assert ((found == own).all(axis=2) | pasted).all()
            assert abs(1 - pasted.mean() - mix.share) < 0.06
    assert kinds == {"none", *({"mixup", "cutmix"} if augment == BOTH else {"mixup" if augment == MIXUP else "cutmix"})}


def test_partners_change_from_epoch_to_epoch_within_their_block() -> None:
    first, second = (partners(view_seeds(0, "a.tar", epoch, 640), MIXUP) for epoch in (0, 1))
    assert (first != second).mean() > 0.9
    assert (first // 64 == np.arange(640) // 64).all()
    assert (partners(SEEDS, Augment()) == np.arange(101)).all()


def test_both_views_of_a_pair_are_mixed_alike() -> None:
    for one, two in ((5, 900), (7, 7_000_000)):
        assert mix_of(one, two, BOTH) == mix_of(two, one, BOTH)


def test_shares_are_distributed_as_timms() -> None:
    count = 4000
    for augment, settings in (
        (MIXUP, {"mixup_alpha": 0.8}),
        (CUTMIX, {"mixup_alpha": 0.0, "cutmix_alpha": 1.0}),
        (CUTMIX.model_copy(update={"cutmix_minmax": (0.2, 0.8)}), {"mixup_alpha": 0.0, "cutmix_minmax": (0.2, 0.8)}),
    ):
        mixes = [mix_of(i, i + count, augment) for i in range(count)]
        ours = np.array([mix.share if mix else 1.0 for mix in mixes])
        np.random.seed(0)
        timms = Mixup(**settings, mode="pair", prob=1.0, label_smoothing=0.0, num_classes=2)
        # Each pair of one image of each class: the target of the first says the share of its own.
        labels = torch.tensor([0] * (count // 2) + [1] * (count // 2))
        _, target = timms(torch.zeros(count, 3, 64, 64), labels)
        theirs = target[: count // 2, 0].numpy()
        assert abs(ours.mean() - theirs.mean()) < 0.025
        assert (
            np.abs(np.quantile(ours, [0.1, 0.3, 0.5, 0.7, 0.9]) - np.quantile(theirs, [0.1, 0.3, 0.5, 0.7, 0.9])).max()
            < 0.06
        )


def test_teacher_and_student_of_other_sizes_see_the_same_mixture() -> None:
    smooth = np.linspace(0, 255, 224)[:, None, None] * np.ones((1, 224, 3))
    pixels = [smooth, smooth[::-1], smooth.transpose(1, 0, 2), np.full_like(smooth, 128)]
    images = {i: encoded(Image.fromarray(p.astype(np.uint8))) for i, p in enumerate(pixels)}
    for augment in (MIXUP, CUTMIX):
        seeds = view_seeds(3, "a.tar", 0, 4)
        large, small = (views(images, range(4), seeds, partners(seeds, augment), augment, size) for size in (224, 112))
        for slot in range(4):
            halved = Image.fromarray(large[slot]).resize((112, 112), Image.Resampling.BOX)  # type: ignore[arg-type]
            gap = np.abs(np.asarray(halved).astype(float) - small[slot].astype(float))  # type: ignore[union-attr]
            # Only the edge of a pasted box may fall on another pixel.
            assert np.quantile(gap, 0.97) <= 3


def test_a_box_without_cutmix_is_refused() -> None:
    with pytest.raises(UserError, match="cutmix_minmax is for cutmix"):
        load_recipe("example", ["label.augment.cutmix_minmax=[0.2, 0.8]"])
