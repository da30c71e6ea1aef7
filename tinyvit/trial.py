"""Networks tried on a blank picture before they are relied on: what foreign code raises is told in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tinyvit.errors import UserError


@contextmanager
def foreign(fails: str, remedy: str) -> Iterator[None]:
    """UserError, `fails (reason); remedy`, for whatever is raised within, but for memory that there is not."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as fault:
        kind, line = type(fault).__name__, first_line(fault)
        raise UserError(f"{fails} ({kind}{'' if line == kind else f': {line}'}); {remedy}") from None


def first_line(fault: BaseException) -> str:
    """The first line that a fault says, or its kind."""
    lines = str(fault).strip().splitlines()
    return lines[0].rstrip(":. ") if lines else type(fault).__name__


def lone_norms(network: nn.Module, picture: Tensor) -> list[str]:
    """The batch norm layers that see a single value of each channel of a picture [1, 3, H, W].

    Of a single value there is no spread: torch refuses to train on such a picture alone.
    """
    found: list[str] = []

    def look(name: str, _layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs[0].numel() == inputs[0].shape[1]:
            found.append(name)

    layers = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, _BatchNorm)]
    hooks = [layer.register_forward_pre_hook(partial(look, name)) for name, layer in layers]
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            network(picture)
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return found
