"""A run: what every stage of a recipe shares, checked before the first one begins."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any

from logitstore import LogitStore
from tinyvit.classes import match_classes
from tinyvit.config import Recipe, Stage
from tinyvit.data.index import ShardIndex, index_shards
from tinyvit.data.training_views import counts_of
from tinyvit.detection.coco import CocoSet
from tinyvit.detection.survey import check_set
from tinyvit.errors import UserError
from tinyvit.progress import Progress
from tinyvit.teachers import Teacher
from tinyvit.training.network import repeat_exactly
from tinyvit.world import World

log = logging.getLogger("tinyvit")


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
    # Validation pictures that were looked at, with how many classes there are: not again for the next stage.
    looked_at: set[tuple[str, int]] = field(default_factory=set)
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

    def label_classes(self, stage: Stage) -> tuple[int, ...] | None:
        """Which of the classes that a stage's student tells apart each label is; None where no label is learned.

        Labels that are learned beside a teacher's answers are matched with its classes by name. UserError where one is
        none of them, and where there are no names to tell.
        """
        if not stage.learns_labels:
            return None
        if stage.target == "labels":
            return tuple(range(self.num_classes(stage)))
        why = "missing=label" if stage.missing == "label" else f"label_weight={stage.label_weight}"
        labels, teacher = self.index.place.class_names() or [], self.class_names(stage)
        if teacher is None and len(labels) == self.num_classes(stage):
            log.warning("the teacher's classes have no names: label 0 is taken for its first one, and so on")
            return tuple(range(len(labels)))
        if teacher is None or not labels:
            raise UserError(
                f"a stage has {why}, but the data's classes.txt names {len(labels)} classes, the teacher tells "
                f"{self.num_classes(stage)} apart; name those of both (classes.txt, label.classes), or learn from "
                f"answers alone"
            )
        found = match_classes(labels, teacher, ("the data", "the teacher"))
        if -1 in found:
            raise UserError(
                f"a stage has {why}, but the data's class {labels[found.index(-1)]!r} (label {found.index(-1)}) is "
                f"none of the teacher's {len(teacher)}, the first of which is {teacher[0]!r}; learn from answers "
                f"alone, or name the classes alike (classes.txt, label.classes)"
            )
        if found != list(range(len(teacher))):
            log.info("labels are numbered as the teacher's classes, which have the same names in another order or more")
        return tuple(found)

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
    # Before a live teacher makes the first product of the process.
    repeat_exactly(recipe.engine.deterministic)
    world = world or World()
    data = _open_scenes if recipe.detection else _open_shards
    return Run(recipe, folder, data(recipe, workers, progress, world), world, workers, progress)


def _open_scenes(recipe: Recipe, workers: int, progress: Progress, world: World) -> CocoSet:
    assert recipe.detection
    coco = CocoSet(Path(recipe.data.train), recipe.data.decode)
    return check_set(coco, recipe.detection.head == "mask_rcnn", False, world, workers, progress)


def _open_shards(recipe: Recipe, _workers: int, progress: Progress, world: World) -> ShardIndex:
    # The first one makes the index where there is none yet, the others read it.
    if not world.chief:
        world.meet()
    index = index_shards(recipe.data.train, progress)
    if world.chief:
        world.meet()
    return index


def of_stage(run: Run, name: str) -> Run:
    """The run with the pictures that a stage is shown, which may be shards of its own."""
    recipe, train = run.recipe, run.recipe.stages[name].train
    if train is None:
        return run
    own = recipe.model_copy(update={"data": recipe.data.model_copy(update={"train": train})})
    return replace(run, recipe=own, data=_open_shards(own, run.workers, run.progress, run.world))


def check_stages(recipe: Recipe, stages: Sequence[str]) -> None:
    """UserError for a stage that the recipe does not have."""
    if unknown := [name for name in stages if name not in recipe.stages]:
        raise UserError(f"the recipe has no stage {unknown[0]!r}; it has {', '.join(recipe.stages)}")
