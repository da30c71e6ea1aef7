"""A student in a folder that plain timm loads.

It holds `model.safetensors` (for `timm.create_model(NAME, checkpoint_path=...)`) and `config.json`, with which
`timm.create_model("local-dir:FOLDER")` needs to be told nothing else.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import timm
from safetensors.torch import save
from torch import nn

from logitstore import write_whole
from tinyvit.classes import Names
from tinyvit.config import Decode, Student
from tinyvit.errors import UserError
from tinyvit.models.weights import CONFIG, WEIGHTS, timm_config

# Of timm's configuration: what images must be made for, and where the classifier is.
PREPARATION = (
    "input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std", "first_conv", "classifier",
)  # fmt: skip


def save_student(folder: Path, model: nn.Module, student: Student, classes: Names, decode: Decode) -> None:
    """Write the two files, each aside and renamed. `classes` are the names, where they are known; `decode` is how the
    images were read that it was trained on.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    config, made = timm_config(model), cast(Any, model)
    count = int(made.num_classes)
    record = {
        "architecture": student.name,
        "num_classes": count,
        "num_features": int(made.num_features),
        "pretrained_cfg": {key: config[key] for key in PREPARATION if key in config}
        | {"num_classes": count, "tag": "distilled"},
        "model_args": made.model_args,
        "decode": decode.model_dump(mode="json"),
    } | ({"label_names": list(classes)} if classes else {})
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / WEIGHTS, save(state, {"format": "pt"}))
    write_whole(folder / CONFIG, (json.dumps(record, indent=2) + "\n").encode())


def load_student(folder: Path) -> nn.Module:
    """A student from its folder, as plain timm does it. UserError when it is none."""
    try:
        model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except FileNotFoundError as fault:
        raise UserError(f"{folder} holds no student ({WEIGHTS} and {CONFIG}); give a stage's run folder") from fault
    except (RuntimeError, KeyError, ValueError) as fault:
        raise UserError(f"the student in {folder} cannot be loaded: {str(fault).splitlines()[0]}") from fault
    return model


def decode_of(folder: Path) -> Decode:
    """How images are read for a student; as usual where its folder does not say. UserError where that is damaged."""
    try:
        return Decode.model_validate(json.loads((folder / CONFIG).read_text()).get("decode", {}))
    except (OSError, ValueError) as fault:
        reason = str(fault).partition("\n")[0]
        raise UserError(f"{folder / CONFIG} does not say how images are read ({reason}); restore it") from fault


def class_names(model: nn.Module) -> tuple[str, ...] | None:
    """The names of a loaded student's classes, where its folder has them."""
    names = timm_config(model).get("label_names")
    return tuple(names) if names else None
