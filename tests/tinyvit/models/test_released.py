"""Released checkpoints under timm's names, checked against a forward pass written from the paper's own names."""

from __future__ import annotations

import itertools
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from support import tinyvit
from torch import Tensor

from tinyvit.errors import UserError
from tinyvit.models.released import import_released

WINDOWS = {"tiny_vit_5m_224": (7, 7, 14, 7), "tiny_vit_21m_384": (12, 12, 24, 12)}


class ReleasedForward:
    """TinyViT computed from a state dict with the names of the paper's code (its models/tiny_vit.py), in eval mode."""

    def __init__(self, state: dict[str, Tensor], windows: tuple[int, ...]) -> None:
        self.state, self.windows = state, windows

    def conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = self.state[f"{name}.c.weight"]
        groups = x.shape[1] // weight.shape[1]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
        mean, var, scale, bias = (
            self.state[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, scale, bias)

    def norm(self, x: Tensor, name: str) -> Tensor:
        weight = self.state[f"{name}.weight"]
        return F.layer_norm(x, weight.shape, weight, self.state[f"{name}.bias"])

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def attention(self, x: Tensor, name: str, window: int) -> Tensor:
        biases = self.state[f"{name}.attention_biases"]
        places = list(itertools.product(range(window), repeat=2))
        offsets: dict[tuple[int, int], int] = {}
        index = [offsets.setdefault((abs(a - c), abs(b - d)), len(offsets)) for (a, b) in places for (c, d) in places]
        bias = biases[:, torch.tensor(index).view(len(places), len(places))]
        qkv = self.linear(self.norm(x, f"{name}.norm"), f"{name}.qkv")
        q, k, v = qkv.unflatten(2, (len(biases), -1)).transpose(1, 2).chunk(3, dim=3)
        weights = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5 + bias).softmax(dim=-1)
        return self.linear((weights @ v).transpose(1, 2).flatten(2), f"{name}.proj")

    def windowed(self, x: Tensor, name: str, window: int) -> Tensor:
        _, _, height, width = x.shape
        pad = -height % window, -width % window
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, pad[1], 0, pad[0]))
        rows, columns = x.shape[1] // window, x.shape[2] // window
        x = x.unflatten(1, (rows, window)).unflatten(3, (columns, window)).transpose(2, 3)
        x = self.attention(x.flatten(0, 2).flatten(1, 2), name, window)
        x = x.unflatten(0, (-1, rows, columns)).unflatten(3, (window, window)).transpose(2, 3)
        return x.flatten(3, 4).flatten(1, 2)[:, :height, :width].permute(0, 3, 1, 2)

    def block(self, x: Tensor, name: str, window: int) -> Tensor:
        x = x + self.windowed(x, f"{name}.attn", window)
        x = self.conv(x, f"{name}.local_conv")
        tokens = self.norm(x.permute(0, 2, 3, 1), f"{name}.mlp.norm")
        tokens = self.linear(F.gelu(self.linear(tokens, f"{name}.mlp.fc1")), f"{name}.mlp.fc2")
        return x + tokens.permute(0, 3, 1, 2)

    def __call__(self, x: Tensor) -> Tensor:
        x = self.conv(F.gelu(self.conv(x, "patch_embed.seq.0", 2)), "patch_embed.seq.2", 2)
        for layer, depth in enumerate((2, 2, 6, 2)):
            for number in range(depth):
                name = f"layers.{layer}.blocks.{number}"
                if layer:
                    x = self.block(x, name, self.windows[layer])
                else:
                    inner = F.gelu(self.conv(F.gelu(self.conv(x, f"{name}.conv1")), f"{name}.conv2"))
                    x = F.gelu(x + self.conv(inner, f"{name}.conv3"))
            if layer < 3:
                name = f"layers.{layer}.downsample"
                x = F.gelu(self.conv(F.gelu(self.conv(x, f"{name}.conv1")), f"{name}.conv2", 2))
                x = self.conv(x, f"{name}.conv3")
        return self.linear(self.norm(x.mean(dim=(2, 3)), "norm_head"), "head")


def released(architecture: str, classes: int) -> dict[str, Tensor]:
    """A state dict with the paper's names and random values, as its code would save it."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, value in timm.create_model(architecture, num_classes=classes).state_dict().items():
        name = name.replace("patch_embed.conv1", "patch_embed.seq.0").replace("patch_embed.conv2", "patch_embed.seq.2")
        name = name.replace(".conv.weight", ".c.weight").replace("head.norm", "norm_head").replace("head.fc", "head")
        if name.startswith("stages."):
            _, number, rest = name.split(".", 2)
            name = f"layers.{int(number) - rest.startswith('downsample')}.{rest}"
        random = torch.randn(value.shape, generator=generator) * 0.1
        state[name] = random.abs() + 0.5 if "running_var" in name else random if value.is_floating_point() else value
    state["layers.1.blocks.0.attn.attention_bias_idxs"] = torch.zeros(49, 49, dtype=torch.long)
    return state


@pytest.mark.parametrize(("architecture", "classes"), [("tiny_vit_5m_224", 21841), ("tiny_vit_21m_384", 1000)])
def test_an_imported_checkpoint_answers_as_the_papers_model(architecture: str, classes: int, tmp_path: Path) -> None:
    state = released(architecture, classes)
    torch.save({"model": state, "epoch": 90}, tmp_path / "released.pth")
    done = tinyvit("import", tmp_path / "released.pth", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["architecture"] == architecture
    model: Any = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    size = model.pretrained_cfg["input_size"][-1]
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted = ReleasedForward(state, WINDOWS[architecture])(pixels)
        assert torch.allclose(model(pixels), wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))
    # The first synsets of timm's list, which the paper's imagenet_1kto22k.txt counts alike (test_evaluation.py).
    assert model.pretrained_cfg["label_names"][0] == {1000: "n01440764", 21841: "n00004475"}[classes]


def test_what_does_not_fit_is_refused_with_its_shape(tmp_path: Path) -> None:
    state = released("tiny_vit_5m_224", 10)
    state["layers.2.blocks.3.attn.attention_biases"] = torch.zeros(5, 100)
    torch.save({"model": state}, tmp_path / "odd.pth")
    with pytest.raises(UserError, match=r"the nearest, tiny_vit_5m_224, wants stages.2.blocks.3.attn.attention_biases"):
        import_released(tmp_path / "odd.pth", tmp_path / "out")
    del state["head.weight"]
    torch.save({"model": state}, tmp_path / "headless.pth")
    with pytest.raises(UserError, match="has no TinyViT classifier"):
        import_released(tmp_path / "headless.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_settings_in_a_checkpoint_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper's checkpoints carry a yacs node; a file with anything else that would be called is refused."""
    module = types.ModuleType("yacs.config")
    node = type("CfgNode", (dict,), {"__module__": "yacs.config"})
    module.CfgNode = node  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    state = released("tiny_vit_5m_224", 10)
    torch.save({"model": state, "config": node({"A": node({"B": 1})})}, tmp_path / "with_settings.pth")

    class Evil:
        def __reduce__(self):  # type: ignore[no-untyped-def]
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"model": state, "config": Evil()}, tmp_path / "evil.pth")
    monkeypatch.undo()
    assert import_released(tmp_path / "with_settings.pth", tmp_path / "out")["classes"] == 10
    with pytest.raises(UserError, match="is no checkpoint that can be read safely"):
        import_released(tmp_path / "evil.pth", tmp_path / "other")
    assert not (tmp_path / "ran").exists()
