"""Students by name: any timm model, with fresh weights or those of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn

from tinyvit.classes import Names
from tinyvit.config import Student
from tinyvit.errors import UserError
from tinyvit.models.names import check_model_name
from tinyvit.models.teachers import SOURCES, load_network, own_class_names
from tinyvit.models.weights import adopt_weights, classes_of, load_weights, timm_config
from tinyvit.runtime.foreign import foreign


def create_student(student: Student, num_classes: int, seed: int, classes: Names = None) -> nn.Module:
    """A student with fresh weights from `seed`, or those of its checkpoint. UserError for what timm refuses.

    `classes` are the names of what it is to tell apart, where they are known.
    """
    check_model_name(student.name)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        with foreign(f"timm cannot make {student.name} with {student.kwargs}", "change student.kwargs"):
            model = _create(student, num_classes)
    if student.checkpoint:
        adopt_weights(model, *weights_of(student.checkpoint), classes)
    return model


def weights_of(checkpoint: str) -> tuple[dict[str, Tensor], Names]:
    """The weights that a student begins with, and the names of the classes that they tell apart."""
    if checkpoint.partition(":")[0] in SOURCES:
        network = load_network(checkpoint)
        return dict(network.state_dict()), own_class_names(network)
    return load_weights(Path(checkpoint)), classes_of(Path(checkpoint))


def _create(student: Student, num_classes: int) -> nn.Module:
    """`img_size` is a keyword of some timm models (ViT); others (TinyViT) take any size and only note it."""
    arguments = tuples(student.kwargs) | {"num_classes": num_classes}
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


def input_size(model: nn.Module) -> int:
    """Pixels a side that the network was built for. UserError where it is for images that are not square."""
    *_, height, width = timm_config(model)["input_size"]
    if height != width:
        raise UserError(f"the network was built for images of {width} x {height}; views are square: take another")
    return int(height)


def mean_std(model: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the pixels (0..1) that the network wants."""
    config = timm_config(model)
    return tuple(config["mean"]), tuple(config["std"])


def tuples(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments from a YAML file, which has no tuples, as timm takes them."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in kwargs.items()}
