"""The examination: every check in the order in which a fault would spoil what comes after it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from logitstore import LogitStore
from tinyvit.config import Decode, Recipe
from tinyvit.data.index import ShardIndex
from tinyvit.doctor.class_order import ClassOrderCheck
from tinyvit.doctor.finding import Finding
from tinyvit.doctor.geometry import Shown, check_interpolation, check_resolution
from tinyvit.doctor.machine import check_disk, check_gpu, check_prefect, check_shared_memory
from tinyvit.doctor.preparation import SCREENED, check_preparation, rescue
from tinyvit.doctor.sample import ask, draw
from tinyvit.doctor.shards import Shards
from tinyvit.doctor.store import check_libraries, check_store, check_views, open_store
from tinyvit.errors import UserError
from tinyvit.labelling.describe import describe, stored_decode
from tinyvit.labelling.plan import Work, plan
from tinyvit.models.teachers import Teacher, load_teacher
from tinyvit.runtime.gpu_lock import reserve_gpu
from tinyvit.runtime.progress import Progress

OF_TEACHER = ("class order", "mean and std", "interpolation", "resolution")


@dataclass(frozen=True)
class Case:
    """What is to be examined, as far as it is there: shards, a teacher by name, a store, a file of the teacher's class
    names, a recipe. `images` are shown to the teacher, drawn with `seed`.
    """

    data: str | None
    teacher: str | None
    store: str | None
    classes: Path | None
    recipe: Recipe | None
    images: int
    seed: int


def examine(case: Case, progress: Progress) -> Iterator[Finding]:
    """The findings, each as soon as it is there. UserError only for what is no part of the case."""
    shards = Shards.open(case.data, progress)
    yield from shards.findings
    store, absent = open_store(case.store)
    teacher, fault = _teacher(case, store)
    if teacher is None:
        yield fault
    else:
        yield from _with_teacher(case, teacher, shards.index, store, progress)
    if store is None:
        assert absent is not None
        yield absent
    else:
        yield (found := check_store(store, teacher, shards.index, case.recipe.data.decode if case.recipe else None))
        if found.state in ("ok", "hint") and shards.index is not None:
            yield check_views(store, teacher, shards.index, case.seed, progress)
        else:
            why = "the shards cannot be read" if shards.index is None else "the store is not one of this set-up"
            yield Finding("replay", "skipped", why, "mend that first")
        yield check_libraries(store)
    yield check_disk(case.store or ".", _bytes_needed(case, store, shards.index, teacher))
    yield check_gpu()
    yield check_shared_memory(torch.cuda.device_count())
    yield check_prefect(Path.cwd())


def _teacher(case: Case, store: LogitStore | None) -> tuple[Teacher | None, Finding]:
    """The teacher that was named, else the recipe's, else the store's; or what is wrong with it."""
    label = case.recipe.labelling if case.recipe else None
    name = case.teacher or (label.teacher if label else None) or (store.spec.teacher["name"] if store else None)
    classes = case.classes or (label.classes if label else None)
    size = int(store.spec.teacher["input_size"]) if store else label.input_size if label else None
    if name is None:
        return None, Finding("teacher", "skipped", "no teacher was given", "give --teacher, a recipe or a store")
    try:
        teacher = load_teacher(str(name), reserve_gpu(), classes, size)
    except UserError as fault:
        return None, Finding.of_fault("teacher", fault)
    return teacher, Finding("teacher", "ok", teacher.name)


def _with_teacher(
    case: Case, teacher: Teacher, index: ShardIndex | None, store: LogitStore | None, progress: Progress
) -> Iterator[Finding]:
    if index is None:
        yield from (Finding(check, "skipped", "there are no images", "mend the shards first") for check in OF_TEACHER)
        return
    try:
        sample = draw(index, case.images, case.seed, _decode(case, store))
    except UserError as fault:
        yield Finding.of_fault("pictures", fault)
        return
    shown = _shown(case, teacher, store)
    check = ClassOrderCheck(sample.labels, teacher.classes, index.class_names, teacher.num_classes)
    if (unlabelled := check.fault()) is not None:
        yield unlabelled
        yield from (Finding(check, "skipped", "without labels nothing can be said") for check in OF_TEACHER[1:3])
        yield check_resolution(teacher, sample, shown)
        return
    views = sample.views(teacher, teacher.input_size)
    logits = ask(teacher, views, progress)
    verdict, order = check.verdict(logits), None
    if verdict.finding.state == "failed" and verdict.order is None:
        pixels, rescued = rescue(teacher, views, check, verdict, progress)
        yield rescued.finding if rescued else verdict.finding
        yield pixels
    else:
        order = verdict.order
        yield verdict.finding
        yield check_preparation(teacher, views, logits, order, check, progress)
    resolution = check_resolution(teacher, sample, shown)
    if resolution.state == "failed":
        yield Finding("interpolation", "skipped", f"it takes no view of {shown.size} pixels", "mend that first")
    else:
        yield check_interpolation(teacher, sample.first(SCREENED), order, shown, progress)
    yield resolution


def _shown(case: Case, teacher: Teacher, store: LogitStore | None) -> Shown:
    """How the teacher is shown views by the store, else by the recipe, else by itself."""
    if store:
        return Shown(int(store.spec.teacher["input_size"]), str(store.spec.augment["interpolation"]), "the store")
    if case.recipe and (label := case.recipe.labelling):
        return Shown(label.input_size or teacher.input_size, label.augment.interpolation, "the recipe")
    config = getattr(teacher.model, "pretrained_cfg", None) or {}
    return Shown(teacher.input_size, config.get("interpolation", "bicubic"), "a plain recipe")


def _decode(case: Case, store: LogitStore | None) -> Decode:
    """How images are read by the store, else by the recipe, else as usual."""
    if store:
        return stored_decode(store)
    return case.recipe.data.decode if case.recipe else Decode()


def _bytes_needed(
    case: Case, store: LogitStore | None, index: ShardIndex | None, teacher: Teacher | None
) -> int | None:
    if store:
        facts = describe(store)
        views = sum(store.views(unit) for unit in store.missing())
        return int(views * facts["bytes_per_row"]) if facts["rows"] or not views else None
    if case.recipe and (label := case.recipe.labelling) and index and teacher:
        return plan(label, Work(sum(index.counts), len(index), teacher.num_classes), 1, None, None).bytes
    return None
