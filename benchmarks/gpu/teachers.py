"""Teachers with random weights, of which only speed and shape count."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import nn

from benchmarks.gpu.settings import CLASSES


def large() -> nn.Module:
    """ViT-L/16 at 224 pixels, as large as the paper's: 61.6 billion multiplications a view."""
    return _made("vit_large_patch16_224")


def small() -> nn.Module:
    """A ViT of two blocks for 32 pixels."""
    size = (3, 32, 32)
    return _made("vit_tiny_patch16_224", depth=2, img_size=32, pretrained_cfg_overlay={"input_size": size})


def quick() -> nn.Module:
    """One linear map of an image of 8 x 8: to fill a store."""
    torch.manual_seed(0)
    return nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(3 * 64, CLASSES))


def _made(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = timm.create_model(name, num_classes=CLASSES, **options)
    return made
