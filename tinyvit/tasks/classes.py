"""Which classes the student of a stage tells apart, and which of them each label is."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from tinyvit.classes import match_classes
from tinyvit.config import TeacherStage
from tinyvit.data.index import ShardIndex
from tinyvit.errors import UserError
from tinyvit.training.run import Run

log = logging.getLogger("tinyvit")


@dataclass(frozen=True)
class StageClasses:
    """The classes of a stage's student.

    count      how many it tells apart
    names      what they are called, where that is known
    of_labels  which of them each label is; None where no label is learned
    """

    count: int
    names: tuple[str, ...] | None
    of_labels: tuple[int, ...] | None


def classes_of_labels(run: Run[ShardIndex]) -> StageClasses:
    """The classes of a stage on labels. UserError where they have no names."""
    written = run.data.class_names
    if written is None:
        raise UserError(
            f"{run.recipe.data.train} has no classes.txt beside or above its shards; write one, a class "
            f"name a line in the order of the labels"
        )
    return StageClasses(len(written), tuple(written), tuple(range(len(written))))


def classes_of_teacher(run: Run[ShardIndex], stage: TeacherStage) -> StageClasses:
    """The classes of a stage on a teacher. UserError for labels beside it that are none of the teacher's classes."""
    names, count = run.taught.class_names, run.taught.num_classes
    return StageClasses(count, names, _beside(run, stage, names, count) if stage.learns_labels else None)


def _beside(run: Run[ShardIndex], stage: TeacherStage, teacher: tuple[str, ...] | None, count: int) -> tuple[int, ...]:
    """Which of the teacher's classes each label is, by name."""
    why = "missing=label" if stage.missing == "label" else f"label_weight={stage.label_weight}"
    labels = run.data.class_names or []
    if teacher is None and len(labels) == count:
        log.warning("the teacher's classes have no names: label 0 is taken for its first one, and so on")
        return tuple(range(count))
    if teacher is None or not labels:
        raise UserError(
            f"a stage has {why}, but the data's classes.txt names {len(labels)} classes, the teacher tells "
            f"{count} apart; name those of both (classes.txt, label.classes), or learn from logits alone"
        )
    found = match_classes(labels, teacher, ("the data", "the teacher"))
    if -1 in found:
        raise UserError(
            f"a stage has {why}, but the data's class {labels[found.index(-1)]!r} (label {found.index(-1)}) is "
            f"none of the teacher's {len(teacher)}, the first of which is {teacher[0]!r}; learn from logits "
            f"alone, or name the classes alike (classes.txt, label.classes)"
        )
    if found != list(range(len(teacher))):
        log.info("labels are numbered as the teacher's classes, which have the same names in another order or more")
    return tuple(found)
