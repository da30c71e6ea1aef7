"""The paper's released checkpoints (.pth of its own code) under timm's names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from tinyvit.classes import imagenet_classes
from tinyvit.config import Decode, Student
from tinyvit.errors import UserError
from tinyvit.models.create import create_student
from tinyvit.models.folder import save_student
from tinyvit.runtime.checkpoint import read_weights

ARCHITECTURES = "tiny_vit_*"

# From the names of models/tiny_vit.py of the paper's code to those of timm's, in this order.
RENAMED = (
    (r"^patch_embed\.seq\.0\.", "patch_embed.conv1."),
    (r"^patch_embed\.seq\.2\.", "patch_embed.conv2."),
    # There a stage ends with its downsampling, here the next one begins with it.
    (r"^layers\.(\d+)\.downsample\.", lambda found: f"stages.{int(found[1]) + 1}.downsample."),
    (r"^layers\.", "stages."),
    (r"^norm_head\.", "head.norm."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
    # A convolution is `c` beside its `bn`.
    (r"\.c\.weight$", ".conv.weight"),
)
# Which offset each pair of places has: computed, not learned.
COMPUTED = "attention_bias_idxs"


def import_released(file: Path, out: Path, entry: str | None = None) -> dict[str, Any]:
    """Write a released checkpoint as a student's folder; returns what it is. `entry` names the weights in the file
    where it has several (see read_weights).

    The architecture is the one of timm's TinyViTs whose every tensor it fits. UserError where there is none, or the
    file is no checkpoint. Nothing in the file is run: torch reads tensors and plain values only.
    """
    weights = read_weights(file, entry, "give a .pth of the paper's model zoo")
    state = {_timm_name(name): value for name, value in weights.state.items() if not name.endswith(COMPUTED)}
    head = state.get("head.fc.weight")
    if head is None:
        raise UserError(f"{file} has no TinyViT classifier (head.weight); give a .pth of the paper's model zoo")
    misfits = {}
    for name in timm.list_models(ARCHITECTURES):
        student = Student(name=name)
        model = create_student(student, len(head), seed=0)
        misfit = _misfit(model, state)
        if misfit is None:
            model.load_state_dict(state)
            save_student(out, model, student, imagenet_classes(len(head)), Decode())
            parameters = sum(p.numel() for p in model.parameters())
            return {
                "folder": str(out),
                "architecture": name,
                "classes": len(head),
                "parameters": parameters,
                "weights": weights.entry or "the file's only ones",
                "other_weights": list(weights.others),
                "tensors_of_other_parts": weights.left,
            }
        misfits[name] = misfit
    closest = max(misfits, key=lambda name: misfits[name][0])
    raise UserError(f"{file} is none of timm's TinyViTs; the nearest, {closest}, {misfits[closest][1]}")


def _timm_name(name: str) -> str:
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def _misfit(model: nn.Module, state: dict[str, Tensor]) -> tuple[int, str] | None:
    """How many tensors fit and what is wrong with the first that does not; None where all fit."""
    own = model.state_dict()
    wrong = [name for name in own if name not in state or state[name].shape != own[name].shape]
    extra = [name for name in state if name not in own]
    if not wrong and not extra:
        return None
    fit = len(own) - len(wrong)
    if extra:
        return fit, f"has no {extra[0]}"
    have = f"here it is {list(state[wrong[0]].shape)}" if wrong[0] in state else "there is none here"
    return fit, f"wants {wrong[0]} of shape {list(own[wrong[0]].shape)}, {have}"
