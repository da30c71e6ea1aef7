"""Weights of one network in another: another classifier, another resolution."""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tinyvit.classes import Names, match_classes
from tinyvit.errors import UserError

log = logging.getLogger("tinyvit")

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def timm_config(model: nn.Module) -> dict[str, Any]:
    """What timm knows of a model's input and classifier (`pretrained_cfg`)."""
    return dict(cast(Any, model).pretrained_cfg)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file or of a student's folder. UserError when there are none."""
    file = path / WEIGHTS if path.is_dir() else path
    try:
        return load_file(file)
    except OSError as fault:
        raise UserError(f"there are no weights at {file}; give a .safetensors file or a stage's folder") from fault
    except Exception as fault:  # safetensors has one error type of its own, which mypy cannot see
        raise UserError(f"{file} is not a whole safetensors file: {fault}") from fault


def classes_of(path: Path) -> Names:
    """The class names that a student's folder gives, also for the weights in it; None where they are not known."""
    file = (path.parent if path.name == WEIGHTS else path) / CONFIG
    return json.loads(file.read_text()).get("label_names") if file.is_file() else None


def adopt_weights(model: nn.Module, state: dict[str, Tensor], before: Names = None, now: Names = None) -> None:
    """Load weights that may be of another resolution and of other classes.

    What depends on the resolution (attention biases, position embeddings) is resized as timm does for the
    architecture. Where the class names `before` and `now` are known, the classifier keeps the rows of those
    that are in both, and the other classes begin at the mean of these (the paper's code does so from ImageNet-21k to
    ImageNet-1k); else a classifier of another size begins afresh. UserError when anything else does not fit.
    """
    own = model.state_dict()
    classifier = str(timm_config(model)["classifier"])
    given = dict(state)
    body = [key for key in own if not key.startswith(classifier)]
    if any(key in given and given[key].shape != own[key].shape for key in body):
        given = _resized(model, given)
    wrong = [key for key in body if key not in given or given[key].shape != own[key].shape]
    if wrong or (wrong := [key for key in given if key not in own]):
        raise UserError(f"the checkpoint is of another model: {wrong[0]} does not fit")
    _tell_resized(state, given)
    head = [key for key in own if key.startswith(classifier)]
    if before is not None and now is not None and list(before) != list(now):
        found = match_classes(now, before, ("the new classifier", "the checkpoint"))
        kept = sum(row >= 0 for row in found)
        log.info("the classifier begins with the rows of %d of %d classes", kept, len(now))
        given |= {key: _taken(given[key], found) if kept else own[key] for key in head if key in given}
    elif (before is None or now is None) and all(key in given and given[key].shape == own[key].shape for key in head):
        log.info(
            "the classifier keeps its rows by their numbers: the classes of the checkpoint or the stage have no names"
        )
    if afresh := [key for key in head if key not in given or given[key].shape != own[key].shape]:
        there = f"of shape {list(given[afresh[0]].shape)} in the checkpoint" if afresh[0] in given else "not there"
        log.info("the classifier begins afresh: %s %s is %s", afresh[0], list(own[afresh[0]].shape), there)
    model.load_state_dict({**given, **{key: own[key] for key in afresh}})


def _tell_resized(before: dict[str, Tensor], now: dict[str, Tensor]) -> None:
    """Say in the log which tensors have another shape, those of one kind together."""
    shapes = [
        (key.rpartition(".")[2], list(before[key].shape), list(value.shape))
        for key, value in now.items()
        if key in before and before[key].shape != value.shape
    ]
    kinds = Counter(f"{name} {then} to {shape}" for name, then, shape in shapes)
    if kinds:
        log.info("resized for another resolution: %s", "; ".join(f"{n} x {kind}" for kind, n in kinds.items()))


def _taken(values: Tensor, rows: list[int]) -> Tensor:
    """Rows of the classifier's weight [C, D] or bias [C] for other classes, of which -1 is one that it has not."""
    mean = values[[row for row in rows if row >= 0]].mean(dim=0)
    return torch.stack([mean if row < 0 else values[row] for row in rows])


def _resized(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's own way from one resolution to another, which each architecture brings along; as they are, where these
    weights are of no resolution of the model.
    """
    fit = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    try:
        return dict(fit(dict(state), model)) if fit else state
    except (RuntimeError, KeyError, ValueError, AttributeError, AssertionError):
        return state
