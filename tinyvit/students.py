"""Students: any timm model by name, kept in a folder that plain timm loads.

A folder holds `model.safetensors` (for `timm.create_model(NAME, checkpoint_path=...)`) and `config.json`, with
which `timm.create_model("local-dir:FOLDER")` needs to be told nothing else.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors.torch import load_file, save
from torch import nn

from storage import write_whole
from tinyvit.config import Student
from tinyvit.errors import UserError

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def create_student(student: Student, num_classes: int, seed: int) -> nn.Module:
    """A student with fresh weights from `seed`, or those of its checkpoint. UserError for what timm refuses."""
    if not timm.is_model(student.name):
        close = ", ".join(timm.list_models(f"*{student.name[:8]}*")[:5]) or "see timm.list_models()"
        raise UserError(f"timm has no model {student.name!r} for the student; near it: {close}")
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        try:
            model = _create(student, num_classes)
        except (TypeError, ValueError, RuntimeError, AssertionError, IndexError) as fault:
            reason = str(fault).strip().splitlines()[0] if str(fault).strip() else type(fault).__name__
            raise UserError(f"timm cannot make {student.name} with {student.kwargs}: {reason}") from None
    if student.checkpoint:
        adopt_weights(model, load_weights(student.checkpoint))
    return model


def _create(student: Student, num_classes: int) -> nn.Module:
    """`img_size` is a keyword of some timm models (ViT); others (TinyViT) take any size and only note it."""
    arguments = _tuples(student.kwargs) | {"num_classes": num_classes}
    size = arguments.get("img_size")
    if size is not None:
        arguments["pretrained_cfg_overlay"] = {"input_size": (3, size, size)}
    try:
        model: nn.Module = timm.create_model(student.name, **arguments)
    except TypeError as fault:
        if size is None or "img_size" not in str(fault):
            raise
        arguments.pop("img_size")
        model = timm.create_model(student.name, **arguments)
    cast(Any, model).model_args = {
        key: value for key, value in arguments.items() if key not in ("num_classes", "pretrained_cfg_overlay")
    }
    return model


def timm_config(model: nn.Module) -> dict[str, Any]:
    """What timm knows of a model's input and classifier (`pretrained_cfg`)."""
    return dict(cast(Any, model).pretrained_cfg)


def input_size(model: nn.Module) -> int:
    """Pixels a side that the network was built for."""
    return int(timm_config(model)["input_size"][-1])


def colours(model: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the pixels (0..1) that the network wants."""
    config = timm_config(model)
    return tuple(config["mean"]), tuple(config["std"])


def adopt_weights(model: nn.Module, state: dict[str, torch.Tensor]) -> list[str]:
    """Load weights, leaving out a classifier of another size; returns the names left out.

    UserError when anything but the classifier does not fit.
    """
    own = model.state_dict()
    classifier = str(timm_config(model)["classifier"])
    left = [k for k in own if k.startswith(classifier) and (k not in state or state[k].shape != own[k].shape)]
    wrong = [k for k in own if k not in left and (k not in state or state[k].shape != own[k].shape)]
    if wrong or (extra := [k for k in state if k not in own]):
        raise UserError(f"the checkpoint is of another model: {(wrong or extra)[0]} does not fit")
    model.load_state_dict({**own, **{k: v for k, v in state.items() if k not in left}})
    return left


def save_student(folder: Path, model: nn.Module, student: Student) -> None:
    """Write the two files, each aside and renamed."""
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    config, made = timm_config(model), cast(Any, model)
    classes = int(made.num_classes)
    record = {
        "architecture": student.name,
        "num_classes": classes,
        "num_features": int(made.num_features),
        "pretrained_cfg": {
            key: config[key]
            for key in ("input_size", "interpolation", "crop_pct", "mean", "std", "first_conv", "classifier")
        }
        | {"num_classes": classes, "tag": "distilled"},
        "model_args": made.model_args,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / WEIGHTS, save(state, {"format": "pt"}))
    write_whole(folder / CONFIG, (json.dumps(record, indent=2) + "\n").encode())


def load_student(folder: Path) -> nn.Module:
    """A student from its folder, as plain timm does it. UserError when it is none."""
    try:
        model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except FileNotFoundError:
        raise UserError(f"{folder} holds no student ({WEIGHTS} and {CONFIG}); give a stage's run folder") from None
    except (RuntimeError, KeyError, ValueError) as fault:
        raise UserError(f"the student in {folder} cannot be loaded: {str(fault).splitlines()[0]}") from None
    return model


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a .safetensors file or of a student's folder. UserError when there are none."""
    file = path / WEIGHTS if path.is_dir() else path
    try:
        return load_file(file)
    except OSError:
        raise UserError(f"there are no weights at {file}; give a .safetensors file or a stage's folder") from None
    except Exception as fault:  # safetensors has one error type of its own, which mypy cannot see
        raise UserError(f"{file} is not a whole safetensors file: {fault}") from None


def _tuples(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in kwargs.items()}
