"""What a stage of training learns, as the engine sees it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tinyvit.data.loader import CountedStream
from tinyvit.training.model_runner import ModelRunner


class Batch(Protocol):
    """What a part of a step is learned from: `skipped` of its views were left out, `labelled` have their label in place
    of logits.
    """

    @property
    def skipped(self) -> int: ...

    @property
    def labelled(self) -> int: ...

    def __len__(self) -> int: ...


class EpochViews(CountedStream, Protocol):
    """The views of an epoch from the `start` on, in batches: `steps` whole steps, `left_out` views fill none."""

    @property
    def start(self) -> int: ...

    @property
    def rank(self) -> int: ...

    @property
    def steps(self) -> int: ...

    @property
    def left_out(self) -> int: ...

    def keys(self, step: int) -> list[str]:
        """What this rank takes in a step, in words."""
        ...


# Measures a network on the validation data.
Validation = Callable[[nn.Module], dict[str, Any]]


@dataclass(frozen=True)
class MetricNames:
    """The figures of a kind of task.

    train    what it is called when a view is right; None where that is not counted
    best_by  the figure of a validation that is best when it is highest
    curves   those that are drawn
    told     those that are told, and by what name
    """

    train: str | None
    best_by: str
    curves: tuple[str, ...]
    told: tuple[tuple[str, str], ...]


class Task(ABC):
    """A network and what it learns: views that cost something, and perhaps validation data.

    fixed_input_size  whether all views have the same size, so that it pays to try which algorithms are fastest for it
    steps             how many a whole epoch has
    grad_accum_steps  in how many batches a step is computed on each rank
    """

    model: nn.Module
    metrics: MetricNames
    fixed_input_size: bool
    steps: int
    grad_accum_steps: int

    @property
    @abstractmethod
    def input_sizes(self) -> tuple[nn.Module, list[tuple[int, int]]]:
        """What of the network is given images, and their smallest sizes (height, width) in pixels."""

    @abstractmethod
    def views(self, epoch: int, done: int = 0) -> EpochViews:
        """The views of an epoch after so many steps."""

    @abstractmethod
    def learn(self, network: ModelRunner, batch: Any) -> tuple[Tensor, Tensor]:
        """[n] the losses of a batch's views, and whether the network is right about each.

        Of a batch without views, too, there is a loss of which gradients can be taken: ranks wait for them.
        """

    @abstractmethod
    def validation(self, times: int, dtype: torch.dtype) -> Validation | None:
        """What measures networks so many times, computed at a precision; None where there is nothing to measure on."""

    @abstractmethod
    def save(self, folder: Path, model: nn.Module) -> None:
        """Write the network as others load it."""

    def log_setup(self) -> None:  # noqa: B027 - most have nothing to say
        """Say in the log what there is to know beforehand."""

    def counted(self) -> dict[str, Any]:
        """What the result has to say of the data besides."""
        return {}

    def state(self) -> dict[str, Any]:
        """What a later process needs to show the same views, where they do not follow from the seed alone."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Go on from a state, which has more in it than `state` gave; only called within an epoch."""
