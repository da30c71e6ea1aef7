"""Whether the teacher is shown the pixels that it was trained on: mean and std, and the order of colours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from timm.data import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_INCEPTION_MEAN,
    IMAGENET_INCEPTION_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)
from torch import Tensor

from tinyvit.doctor.class_order import ClassOrderCheck, Verdict
from tinyvit.doctor.evidence import losses, right, surely_more
from tinyvit.doctor.finding import Finding, State
from tinyvit.doctor.orders import Order
from tinyvit.doctor.sample import ask
from tinyvit.models.teachers import Teacher
from tinyvit.runtime.progress import Progress

CHECK = "mean and std"
NORMALISATIONS = {
    "of ImageNet": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    "of 0.5 (-1..1)": (IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD),
    "of CLIP": (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
    "of none (0..1)": ((0.0,) * 3, (1.0,) * 3),
    "of none (0..255)": ((0.0,) * 3, (1 / 255,) * 3),
    "of Caffe (0..255, less ImageNet's mean)": (IMAGENET_DEFAULT_MEAN, (1 / 255,) * 3),
}
# Every preparation is tried on so many images, the best of them on all.
SCREENED = 64
# Nats an image: what is less is not worth a change.
GAIN = 0.05
# How many that fit better are named: what a teacher was trained with need not come first on few images.
NEAR = 3


@dataclass(frozen=True)
class Preparation:
    """Mean and std of pixels in 0..1 by what they are called, and whether blue comes first."""

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool

    def ask(self, teacher: Teacher, views: Tensor, progress: Progress) -> Tensor:
        """The teacher's logits [N, C] for views [N, H, W, 3] that are prepared this way."""
        shown = views.flip(-1) if self.bgr else views
        return ask(replace(teacher, mean=self.mean, std=self.std), shown, progress)

    def words(self, given: Teacher) -> str:
        """Where it differs from the given one."""
        other = [f"mean and std {self.name}"] if (self.mean, self.std) != (given.mean, given.std) else []
        return " and ".join([*other, *(["blue first (BGR)"] if self.bgr else [])])

    def remedy(self, given: Teacher) -> str:
        """What to do to have it."""
        found = []
        if (self.mean, self.std) != (given.mean, given.std):
            numbers = [tuple(round(x, 4) for x in values) for values in (self.mean, self.std)]
            found.append(
                f"set pretrained_cfg of the teacher's module to mean={numbers[0]}, std={numbers[1]}, "
                f"unless its source says another one of these"
            )
        if self.bgr:
            found.append("turn the channels around in the teacher's module (x.flip(1)): views are RGB")
        return "; ".join([*found, "label again what was labelled"])


def preparations(given: Teacher) -> Iterator[Preparation]:
    """Every other one that is tried."""
    normal = (given.mean, given.std)
    for bgr in (False, True):
        if bgr:
            yield Preparation("as given", *normal, bgr)
        for name, (mean, std) in NORMALISATIONS.items():
            if (mean, std) != normal:
                yield Preparation(name, mean, std, bgr)


def check_preparation(
    teacher: Teacher, views: Tensor, logits: Tensor, order: Order | None, check: ClassOrderCheck, progress: Progress
) -> Finding:
    """Whether another preparation fits the labelled views [N, H, W, 3] better than the given one, of these logits."""
    if order is None:
        told = "there is no label in a class of the teacher's to measure it by"
        return Finding(CHECK, "skipped", told, "compare mean and std with the teacher's own source")
    classes = order.of(check.labels)
    views, logits, classes = views[classes >= 0], logits[classes >= 0], classes[classes >= 0]
    if not len(classes):
        return Finding(CHECK, "skipped", "the teacher has none of the classes of these images", "give others")
    few = slice(0, SCREENED)
    tried = {way: losses(way.ask(teacher, views[few], progress), classes[few]).mean() for way in preparations(teacher)}
    best = min(tried, key=lambda way: tried[way])
    given = losses(logits, classes)
    ok = Finding(
        CHECK, "ok", f"of {len(tried) + 1} preparations (RGB, BGR) the given one fits the labels: {_said(teacher)}"
    )
    if tried[best] >= given[few].mean():
        return ok
    theirs = best.ask(teacher, views, progress)
    other = losses(theirs, classes)
    one, two = right(logits, classes), right(theirs, classes)
    if not surely_more(int((other < given).sum()), int((given < other).sum())) or two.mean() < one.mean():
        return ok
    told = (
        f"{best.words(teacher)} fits better than the given: top-1 {two.mean():.1%} instead of {one.mean():.1%}, "
        f"loss {other.mean():.2f} instead of {given.mean():.2f}"
    )
    near = sorted((way for way in tried if tried[way] < given[few].mean() - GAIN), key=lambda way: tried[way])[1:NEAR]
    if near:
        told += f"; so does {' or '.join(way.words(teacher) for way in near)}"
    state: State = "failed" if given.mean() - other.mean() > GAIN else "hint"
    return Finding(CHECK, state, told, best.remedy(teacher))


def rescue(
    teacher: Teacher, views: Tensor, check: ClassOrderCheck, given: Verdict, progress: Progress
) -> tuple[Finding, Verdict | None]:
    """Where no order fits as given: the preparation under which one does, and the verdict then.

    Wrong pixels of one class may get the same wrong prediction, so an order that was learned from them must be beaten.
    """
    found: list[tuple[float, Preparation]] = []
    few = ClassOrderCheck(check.labels[:SCREENED], check.own, check.theirs, check.count)
    for way in preparations(teacher):
        logits = way.ask(teacher, views[:SCREENED], progress)
        if (order := few.verdict(logits).order) is not None:
            share = float(right(logits, order.of(few.labels)).mean())
            found += [(share, way)] if share > given.learned else []
    if not found and not given.hopeless:
        return Finding(CHECK, "skipped", "other ones fit no better; the order of classes comes first"), None
    if not found:
        told = f"none of {len(NORMALISATIONS)} usual ones, RGB or BGR, makes a known order of classes fit"
        return Finding(CHECK, "failed", told, "look at the weights: is it the trained checkpoint, of this model?"), None
    _, way = max(found, key=lambda entry: entry[0])
    told = f"as given no order of classes fits, with {way.words(teacher)} one does"
    return Finding(CHECK, "failed", told, way.remedy(teacher)), check.verdict(way.ask(teacher, views, progress))


def _said(teacher: Teacher) -> str:
    mean, std = ([round(x, 3) for x in values] for values in (teacher.mean, teacher.std))
    return f"RGB, mean {mean}, std {std}"
