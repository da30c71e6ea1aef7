"""Whether size and resampling of the views are those that the teacher was trained with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyvit.doctor.evidence import losses, surely_more
from tinyvit.doctor.finding import Finding
from tinyvit.doctor.orders import Order
from tinyvit.doctor.sample import Sample, ask
from tinyvit.errors import UserError
from tinyvit.models.teachers import Teacher
from tinyvit.runtime.progress import Progress

FILTERS = ("bicubic", "bilinear", "nearest")
# Nats an image: what is less is not worth a change.
GAIN = 0.05


@dataclass(frozen=True)
class Shown:
    """How views are made, or will be: pixels a side, resampling filter, and who says so."""

    size: int
    interpolation: str
    source: str


def check_interpolation(
    teacher: Teacher, sample: Sample, order: Order | None, shown: Shown, progress: Progress
) -> Finding:
    """Whether the teacher does better with another filter than the one that makes the views."""
    check = "interpolation"
    own = (getattr(teacher.model, "pretrained_cfg", None) or {}).get("interpolation", "bicubic")
    asked = own if shown.interpolation == "random" else shown.interpolation
    told = f"{shown.source} makes views with {shown.interpolation}, the teacher's configuration says {own}"
    if order is None:
        if asked == own:
            return Finding(check, "ok", told)
        return Finding(check, "hint", told, f"set label.augment.interpolation={own}")
    classes = order.of(sample.labels)
    known = classes >= 0
    fit = {
        name: losses(ask(teacher, sample.views(teacher, shown.size, name)[known], progress), classes[known])
        for name in (asked, *(other for other in FILTERS if other != asked))
    }
    best = min(fit, key=lambda name: float(fit[name].mean()))
    gain = float(fit[asked].mean() - fit[best].mean())
    if gain > GAIN and surely_more(int((fit[best] < fit[asked]).sum()), int((fit[asked] < fit[best]).sum())):
        return Finding(
            check,
            "hint",
            f"{told}; with {best} the loss is lower by {gain:.2f}",
            f"look how the images were reduced before, or set label.augment.interpolation={best}",
        )
    return Finding(check, "ok", f"{told}; none of {', '.join(FILTERS)} does better")


def check_resolution(teacher: Teacher, sample: Sample, shown: Shown) -> Finding:
    """Whether views have the teacher's own size, and images enough pixels for it."""
    check = "resolution"
    told = f"{shown.source} shows the teacher {shown.size} pixels a side, it was made for {teacher.input_size}"
    if shown.size != teacher.input_size:
        try:
            teacher.try_size(shown.size)
        except UserError as fault:
            why = str(fault).partition("; ")[0]
            return Finding(
                check, "failed", f"{told}: {why}", f"set label.input_size={teacher.input_size}, or leave it out"
            )
        return Finding(check, "hint", told, f"leave label.input_size out for {teacher.input_size}, unless you compared")
    if sample.sides and (side := int(np.median([min(sides) for sides in sample.sides]))) < shown.size:
        told = f"{told}; half of the images have no more than {side} pixels on their shorter side and are enlarged"
        return Finding(check, "hint", told, "a smaller label.input_size costs less and may say as much: compare")
    return Finding(check, "ok", told)
