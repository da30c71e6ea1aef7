"""What a child has of its parent's weights: of every tensor the first channels, heads and blocks that it keeps."""

from __future__ import annotations

import torch
from timm.models.tiny_vit import Attention
from torch import Tensor, nn


@torch.no_grad()
def inherit(child: nn.Module, parent: nn.Module) -> None:
    """Give a TinyViT the weights of a larger one, in place; what the parent lacks stays as it is.

    Channels of attention are taken by their place among those of all heads, so that narrower heads share what a wider
    one had; the biases of a smaller window are those of the same distances.
    """
    theirs, before = _unfolded(parent), _attentions(parent)
    for name, attention in _attentions(child).items():
        if name in before:
            _regroup(theirs, name, before[name].key_dim, attention)
    for key, mine in _unfolded(child).items():
        if key in theirs:
            kept = tuple(slice(min(a, b)) for a, b in zip(mine.shape, theirs[key].shape, strict=True))
            mine[kept] = theirs[key][kept]


def _attentions(model: nn.Module) -> dict[str, Attention]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Attention)}


def _unfolded(model: nn.Module) -> dict[str, Tensor]:
    """Views of a model's tensors in which every axis is one of channels, heads or distances.

    timm keeps queries, keys and values of a head together, and the biases by the distance in rows and columns.
    """
    state = dict(model.state_dict())
    for name, attention in _attentions(model).items():
        for part in ("weight", "bias"):
            key = f"{name}.qkv.{part}"
            state[key] = state[key].unflatten(0, (attention.num_heads, 3, attention.key_dim)).movedim(1, 0)
        key = f"{name}.attention_biases"
        state[key] = state[key].unflatten(1, attention.resolution)
    return state


def _regroup(theirs: dict[str, Tensor], name: str, wide: int, attention: Attention) -> None:
    """Make heads of `wide` channels into heads of the width that `attention` has."""
    narrow = attention.key_dim
    # Of each head, the one that had its first channel.
    first = [head * narrow // wide for head in range(attention.num_heads)]
    biases = theirs[f"{name}.attention_biases"]
    theirs[f"{name}.attention_biases"] = biases[[head for head in first if head < len(biases)]]
    for part in ("weight", "bias"):
        key = f"{name}.qkv.{part}"
        channels = theirs[key].flatten(1, 2)
        whole = channels.shape[1] // narrow
        theirs[key] = channels[:, : whole * narrow].unflatten(1, (whole, narrow))
