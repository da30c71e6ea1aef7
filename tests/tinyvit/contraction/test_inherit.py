"""Inherited weights: what a child keeps of its parent is its parent's, and works as it did."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from tinyvit.config import Space, Student
from tinyvit.contraction.inherit import inherit
from tinyvit.contraction.point import Point, steps

LIKE = Student(name="tiny_vit_5m_224")
PARENT = Point((32, 64, 64, 96), (2, 2, 2, 2), (4, 4, 2), 4, 4, 16)
SPACE = Space(dim_step=16, smallest_dim=16, window_sizes=(2, 4), head_dims=(8, 16))


def answers(model: torch.nn.Module) -> torch.Tensor:
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(pixels)
    return logits


def parent() -> torch.nn.Module:
    """With biases and statistics that are not what they begin as."""
    model = PARENT.build(LIKE, 10, 1)
    generator = torch.Generator().manual_seed(2)
    for values in model.state_dict().values():
        if values.is_floating_point():
            values += 0.1 * torch.rand(values.shape, generator=generator)
    return model


@pytest.mark.parametrize("child", steps(PARENT, SPACE), ids=lambda point: point.name)
def test_every_tensor_is_taken_from_the_parent(child: Point) -> None:
    fresh, model, whole = child.build(LIKE, 10, 3), child.build(LIKE, 10, 3), parent()
    inherit(model, whole)
    theirs = whole.state_dict()
    for name, values in model.state_dict().items():
        assert not torch.equal(values, fresh.state_dict()[name]) or values.dtype == torch.int64, name
        # Every number comes from the parent's tensor of that name.
        assert torch.isin(values, theirs[name]).all(), name


def test_the_same_network_answers_the_same() -> None:
    copy, whole = PARENT.build(LIKE, 10, 3), parent()
    assert not torch.equal(answers(copy), answers(whole))
    inherit(copy, whole)
    assert torch.equal(answers(copy), answers(whole))


def test_a_channel_that_was_zero_is_not_missed() -> None:
    """An MLP whose last hidden units do nothing computes the same without them; so it does without a zero block."""
    whole = parent()
    child = replace(PARENT, mlp_ratio=3, depths=(2, 2, 2, 1))
    state = whole.state_dict()
    for name, values in state.items():
        if "mlp.fc2.weight" in name:
            values[:, values.shape[1] * 3 // 4 :] = 0
    last = "stages.3.blocks.1"
    for name in ("attn.proj.weight", "attn.proj.bias", "mlp.fc2.weight", "mlp.fc2.bias"):
        state[f"{last}.{name}"].zero_()
    # The local convolution of that block lets through what it gets.
    for name, value in (("conv.weight", 0.0), ("bn.weight", 1.0), ("bn.bias", 0.0), ("bn.running_mean", 0.0)):
        state[f"{last}.local_conv.{name}"].fill_(value)
    state[f"{last}.local_conv.bn.running_var"].fill_(1.0 - 1e-5)
    state[f"{last}.local_conv.conv.weight"][:, :, 1, 1] = 1
    model = child.build(LIKE, 10, 3)
    inherit(model, whole)
    torch.testing.assert_close(answers(model), answers(whole), rtol=1e-4, atol=1e-4)


def test_the_biases_of_a_smaller_window_are_those_of_the_same_distances() -> None:
    child, whole = replace(PARENT, window_sizes=(2, 4, 2)), parent()
    model = child.build(LIKE, 10, 3)
    inherit(model, whole)
    name = "stages.1.blocks.0.attn"
    small, large = (cast(Any, m.get_submodule(name)) for m in (model, whole))
    for one in range(4):
        for two in range(4):
            place = (one // 2) * 4 + one % 2, (two // 2) * 4 + two % 2
            of_small = small.attention_biases[:, small.attention_bias_idxs[one, two]]
            assert torch.equal(of_small, large.attention_biases[:, large.attention_bias_idxs[place]])
