"""What a point costs on paper: parameters and multiply-adds, without building the network.

A search asks for thousands. The counts are those of timm's TinyViT, to the last one (a test compares them with timm's
network and with torch's own counter).
"""

from __future__ import annotations

from dataclasses import dataclass

from tinyvit.contraction.point import Point


@dataclass(frozen=True)
class Count:
    """Parameters, and multiply-adds of one image: those of convolutions, matrix products and attention."""

    parameters: int = 0
    macs: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.parameters + other.parameters, self.macs + other.macs)

    def __mul__(self, times: int) -> Count:
        return Count(self.parameters * times, self.macs * times)


def count(point: Point, size: int, num_classes: int) -> Count:
    """Of the network at a point, for images of `size` pixels a side."""
    dims = point.embed_dims
    half, side = _halved(size), _halved(_halved(size))
    total = _conv(3, dims[0] // 2, 3, half) + _conv(dims[0] // 2, dims[0], 3, side)
    wide = int(dims[0] * point.expand_ratio)
    total += (_conv(dims[0], wide, 1, side) + _depthwise(wide, side) + _conv(wide, dims[0], 1, side)) * point.depths[0]
    for before, dim, depth, window in zip(dims, dims[1:], point.depths[1:], point.window_sizes, strict=False):
        total += _conv(before, dim, 1, side)
        side = _halved(side)
        total += _depthwise(dim, side) + _conv(dim, dim, 1, side)
        total += _block(dim, int(dim * point.mlp_ratio), dim // point.head_dim, window, side) * depth
    return total + Count(2 * dims[-1]) + _linear(dims[-1], num_classes, 1)


def _block(dim: int, hidden: int, heads: int, window: int, side: int) -> Count:
    """Attention in windows, of which the last ones are filled up; local convolution; MLP."""
    padded = -(-side // window) * window
    tokens, together = padded**2, window**2
    # Layer norm, and a bias for each head and distance within a window.
    attention = Count(2 * dim + heads * together, 2 * tokens * together * dim)
    attention += _linear(dim, 3 * dim, tokens) + _linear(dim, dim, tokens)
    mlp = Count(2 * dim) + _linear(dim, hidden, side**2) + _linear(hidden, dim, side**2)
    return attention + mlp + _depthwise(dim, side)


def _conv(channels: int, out: int, kernel: int, side: int) -> Count:
    """With a batch norm, onto `side` x `side` places."""
    weights = channels * out * kernel**2
    return Count(weights + 2 * out, weights * side**2)


def _depthwise(channels: int, side: int) -> Count:
    return Count(9 * channels + 2 * channels, 9 * channels * side**2)


def _linear(features: int, out: int, tokens: int) -> Count:
    return Count(features * out + out, features * out * tokens)


def _halved(side: int) -> int:
    """After a convolution of stride 2 with padding."""
    return -(-side // 2)
