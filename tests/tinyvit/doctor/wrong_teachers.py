"""EfficientNet-Lite0 with its ImageNet-1k weights, as somebody might wrap it: once right, else wrong in one way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import Tensor, nn

from tinyvit.models.teachers import load_teacher

# Smaller than it was made for: enough to tell, in half the time.
SIDE = 160
HALVES: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


class Wrapped(nn.Module):
    """The network behind a change of its input."""

    def __init__(self, change: Callable[[Tensor], Tensor], network: nn.Module | None = None, **config: Any) -> None:
        super().__init__()
        self.network = network or load_teacher("pypi:efficientnet-lite0", torch.device("cpu")).model
        self.change = change
        self.pretrained_cfg = {"input_size": (3, SIDE, SIDE), **config}

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.network(self.change(pixels))
        return logits


def sound() -> nn.Module:
    """It was trained with pixels in -1..1, and says so."""
    return Wrapped(lambda pixels: pixels, **HALVES)


def without_mean() -> nn.Module:
    """It does not say so: ImageNet's mean and std are taken."""
    return Wrapped(lambda pixels: pixels)


def blue_first() -> nn.Module:
    """It turns colours around that are right already, as code for OpenCV's images does."""
    return Wrapped(lambda pixels: pixels.flip(1), **HALVES)


def of_bytes() -> nn.Module:
    """It wants pixels in 0..255, and does not say so."""
    return Wrapped(lambda pixels: pixels / 127.5 - 1)


def untrained() -> nn.Module:
    """The weights were never loaded."""
    torch.manual_seed(0)
    return Wrapped(lambda pixels: pixels, timm.create_model("tf_efficientnet_lite0"), **HALVES)


def of_one_size() -> nn.Module:
    """It takes images of its own size only, as many transformers do."""

    def refuse_others(pixels: Tensor) -> Tensor:
        assert pixels.shape[-1] == SIDE, f"built for {SIDE} pixels"
        return pixels

    return Wrapped(refuse_others, **HALVES)
