"""A run: what every stage of a recipe shares, checked before the first one begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, Generic, Protocol, TypeVar

import torch

from logitstore import Unit
from tinyvit.config import Recipe
from tinyvit.data.batch import Batch
from tinyvit.data.training_views import Replayed
from tinyvit.errors import UserError
from tinyvit.runtime.distributed import World
from tinyvit.runtime.progress import Progress
from tinyvit.targets.signal import TeacherSignal
from tinyvit.training.task import Task

D = TypeVar("D")


class SignalSource(Protocol):
    """Whose soft targets a stage learns: those in a store, or a live teacher's."""

    @property
    def num_classes(self) -> int: ...

    @property
    def class_names(self) -> tuple[str, ...] | None: ...

    @property
    def epochs(self) -> int:
        """How many epochs of views there are."""
        ...

    @property
    def view_size(self) -> int | None:
        """Pixels a side of the views that a live teacher is shown; None where none is asked."""
        ...

    @property
    def location(self) -> str | None:
        """Where they are stored."""
        ...

    def identity(self) -> dict[str, Any]:
        """All that decides what the targets are."""
        ...

    def record(self) -> dict[str, Any]:
        """Where they are from, for whoever looks into the run folder."""
        ...

    @property
    def units(self) -> int:
        """How many units of views there are in a store."""
        ...

    def absent(self) -> frozenset[Unit]:
        """The units that have no targets yet."""
        ...

    def replayed(self, epoch: int, absent: frozenset[Unit]) -> Replayed:
        """The views of one of its epochs, with these units left as absent."""
        ...

    def signal(self, batch: Batch, device: torch.device) -> TeacherSignal:
        """The targets of a batch's views, on a device. UserError for those that are not finite."""
        ...

    def try_teacher(self) -> None:
        """UserError for a live teacher that does not take the views it will be shown."""
        ...


class TaskType(Protocol):
    """A kind of task, by the target of stages."""

    def __call__(self, run: Run[Any], name: str, before: Path | None, /) -> Task:
        """The task of a stage, whose network begins with the weights in the folder `before` where there is one."""
        ...

    def identity(self, run: Run[Any], name: str, earlier: str | None, /) -> list[Any]:
        """All that decides the outcome of a stage after one of the digest `earlier`."""
        ...

    def of_stage(self, run: Run[Any], name: str, /) -> Run[Any]:
        """The run with the data that a stage learns from, which may have its own."""
        ...


@dataclass(frozen=True)
class Run(Generic[D]):
    """What every stage of a run shares: its data, opened, the kinds of tasks by a stage's target, and for stages that
    learn from a teacher the source of `signals`.

    `shards` are the numbers of those that are trained on, where it is not all of them.
    """

    recipe: Recipe
    folder: Path
    data: D
    tasks: Mapping[str, TaskType]
    world: World
    workers: int
    progress: Progress
    signals: SignalSource | None = None
    wandb: str | None = None
    stop: Event = field(default_factory=Event)
    # Validation images that were looked at, with how many classes there are: not again for the next stage.
    looked_at: set[tuple[str, int]] = field(default_factory=set)
    shards: frozenset[int] | None = None

    @property
    def taught(self) -> SignalSource:
        """The source of signals, of a run whose stages learn from a teacher."""
        assert self.signals
        return self.signals


def check_stages(recipe: Recipe, stages: Sequence[str]) -> None:
    """UserError for a stage that the recipe does not have."""
    if unknown := [name for name in stages if name not in recipe.stages]:
        raise UserError(f"the recipe has no stage {unknown[0]!r}; it has {', '.join(recipe.stages)}")
