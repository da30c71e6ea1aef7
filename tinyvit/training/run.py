"""A run: what every stage of a recipe shares, checked before the first one begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from storage import LogitStore
from tinyvit.config import Recipe, Stage
from tinyvit.data.index import ShardIndex, index_shards
from tinyvit.data.training_views import counts_of
from tinyvit.detection.coco import CocoSet
from tinyvit.errors import UserError
from tinyvit.progress import Progress
from tinyvit.teachers import Teacher
from tinyvit.world import World


@dataclass(frozen=True)
class Run:
    """What every stage of a run shares. Stages that learn from a teacher have a `store`, or ask a live `teacher`.

    The data is an index of shards, or for detection a set in COCO's format. `shards` are the numbers of those that are
    trained on, where it is not all of them.
    """

    recipe: Recipe
    folder: Path
    data: ShardIndex | CocoSet
    world: World
    workers: int
    progress: Progress
    store: LogitStore | None = None
    teacher: Teacher | None = None
    wandb: str | None = None
    stop: Event = field(default_factory=Event)
    shards: frozenset[int] | None = None

    @property
    def index(self) -> ShardIndex:
        """The shards."""
        assert isinstance(self.data, ShardIndex)
        return self.data

    @property
    def coco(self) -> CocoSet:
        """The set in COCO's format."""
        assert isinstance(self.data, CocoSet)
        return self.data

    @property
    def images(self) -> int:
        """How many images an epoch has."""
        return sum(counts_of(self.index, self.shards))

    @property
    def answers(self) -> dict[str, Any]:
        """Whose answers are learned: the store's attributes, or those of a store that would hold the same."""
        if self.store:
            return self.store.spec.to_attributes()
        assert self.teacher
        return {"online": self.teacher.record(self.teacher_size)}

    @property
    def teacher_size(self) -> int:
        """Pixels a side of what a live teacher is shown."""
        assert self.teacher
        return self.recipe.label.input_size or self.teacher.input_size

    def class_names(self, stage: Stage) -> tuple[str, ...] | None:
        """What a stage's student tells apart, where the names are known. UserError for labels without names."""
        if stage.target == "labels":
            written = self.index.place.class_names()
            if written is None:
                raise UserError(
                    f"{self.recipe.data.train} has no classes.txt beside or above its shards; write one, a class "
                    f"name a line in the order of the labels"
                )
            return tuple(written)
        names = self.store.class_names if self.store else self.teacher.classes if self.teacher else None
        return tuple(names) if names else None

    def refuse_other_labels(self, stage: Stage) -> None:
        """UserError when a stage learns from a teacher and from labels that are not the teacher's classes."""
        if stage.target == "teacher" and (stage.label_weight or stage.missing == "label"):
            labels = self.index.place.class_names() or []
            if len(labels) != self.num_classes(stage):
                why = "missing=label" if stage.missing == "label" else f"label_weight={stage.label_weight}"
                raise UserError(
                    f"a stage has {why}, but the data's classes.txt names {len(labels)} classes, the teacher "
                    f"{self.num_classes(stage)}"
                )

    def num_classes(self, stage: Stage) -> int:
        """How many classes a stage's student tells apart."""
        if stage.target == "labels":
            return len(self.class_names(stage) or ())
        if self.store:
            return self.store.spec.num_classes
        assert self.teacher
        return self.teacher.num_classes


def open_run(
    recipe: Recipe, folder: Path, stages: Sequence[str], workers: int, progress: Progress, world: World | None = None
) -> Run:
    """A run of these stages, with its data at hand. UserError for a stage that there is not."""
    check_stages(recipe, stages)
    world = world or World()
    # The first one makes the index where there is none yet, the others read it.
    if not world.chief:
        world.meet()
    data = (
        CocoSet(Path(recipe.data.train), recipe.data.decode)
        if recipe.detection
        else index_shards(recipe.data.train, progress)
    )
    if world.chief:
        world.meet()
    return Run(recipe, folder, data, world, workers, progress)


def check_stages(recipe: Recipe, stages: Sequence[str]) -> None:
    """UserError for a stage that the recipe does not have."""
    if unknown := [name for name in stages if name not in recipe.stages]:
        raise UserError(f"the recipe has no stage {unknown[0]!r}; it has {', '.join(recipe.stages)}")
