"""Whether the labels mean the teacher's classes: its predictions against each known order, and against a learned one.

A wrong order and wrong pixels both end in an accuracy of chance. The predictions themselves tell them apart: under
a wrong order they still go with the labels, only other ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tinyvit.classes import match_classes
from tinyvit.doctor.evidence import chance, surely_more
from tinyvit.doctor.finding import Finding
from tinyvit.doctor.orders import GIVEN, Order, orders
from tinyvit.errors import UserError

CHECK = "class order"
# With fewer images of classes that the teacher has nothing is said.
ENOUGH = 16
EXAMPLES = 3

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Verdict:
    """What was found, and the order that the labels are to be read by, None where none fits.

    `learned` is the share of predictions that are right by an order learned from half of the images; `hopeless` if even
    that is no more than chance.
    """

    finding: Finding
    order: Order | None = None
    learned: float = 0.0
    hopeless: bool = False


@dataclass(frozen=True)
class ClassOrderCheck:
    """What predictions are judged by: labels [N], names of the teacher's `count` classes and of the labels."""

    labels: Ids
    own: Sequence[str] | None
    theirs: Sequence[str] | None
    count: int

    def fault(self) -> Finding | None:
        """Why these labels cannot be judged by."""
        if len(self.labels) < ENOUGH or len(set(self.labels.tolist())) < 2:
            told = f"{len(self.labels)} labelled images of {len(set(self.labels.tolist()))} classes tell nothing"
            return Finding(CHECK, "skipped", told, "give shards with labels (.cls) of several classes")
        names = self.count if self.theirs is None else len(self.theirs)
        if (largest := int(self.labels.max())) >= names:
            whose = "the teacher has" if self.theirs is None else "classes.txt names"
            told, remedy = f"a label is {largest}, {whose} {names:,} classes", "remake the shards, or mend classes.txt"
            return Finding(CHECK, "failed", told, f"labels count from 0: {remedy}")
        if self.own is not None and self.theirs is not None:
            try:
                match_classes(self.theirs, self.own, ("the data", "the teacher"))
            except UserError as fault:
                return Finding.of_fault(CHECK, fault)
        return None

    def verdict(self, logits: Tensor) -> Verdict:
        """On logits [N, C] of the labelled images."""
        named = logits.argmax(dim=1).numpy()
        known = orders(self.own, self.theirs, self.count)
        hits = [order.of(self.labels) == named for order in known]
        learned = self._learned(named)
        if not known:
            return self._of_strangers(named, learned)
        best = int(np.argmax([hit.sum() for hit in hits]))
        if self.own is not None and self.theirs is not None and known[0].name != GIVEN:
            if hits[best].mean() > chance(known[best].of(self.labels), named)[1]:
                told = f"no class name is in both lists, but top-1 is {hits[best].mean():.1%} if {known[best].name}"
                return Verdict(Finding(CHECK, "hint", told, known[best].remedy), known[best])
            return self._of_strangers(named, learned)
        return self._of_given(named, known[0], hits[0], known[best], hits[best], learned)

    def _of_given(
        self,
        named: Ids,
        given: Order,
        right: NDArray[np.bool_],
        best: Order,
        better: NDArray[np.bool_],
        learned: Ids,
    ) -> Verdict:
        classes = given.of(self.labels)
        share, bound = right[classes >= 0].mean() if (classes >= 0).any() else 0.0, chance(classes, named)
        said = f"top-1 is {share:.1%} on {(classes >= 0).sum()} labelled images (chance {bound[0]:.1%})"
        taught = learned == named
        # An order that is right for some classes is not yet the one.
        if _surely_better(better, right) and not _surely_better(taught, better):
            told = f"{said}, but {better.mean():.1%} if {best.name}"
            return Verdict(Finding(CHECK, "failed", told, best.remedy), best)
        more = _surely_better(taught, right)
        if share > bound[1]:
            if more:
                told = f"{said}; an order learned from half of them reaches {taught.mean():.1%}: {self._such_as(named)}"
                remedy = "look whether these names mean the same; if not, mend classes.txt or --classes"
                return Verdict(Finding(CHECK, "hint", told, remedy), given)
            return Verdict(Finding(CHECK, "ok", f"{said}: labels and predictions mean the same classes"), given)
        if more and taught.mean() > chance(learned, named)[1]:
            told = (
                f"{said}; no known order fits, yet the predictions go with the labels ({taught.mean():.1%} by an order "
                f"learned from half of them): {self._such_as(named)}"
            )
            remedy = (
                "the class list is not that of the labels, or not that of the teacher: mend classes.txt or --classes"
            )
            return Verdict(Finding(CHECK, "failed", told, remedy), learned=float(taught.mean()))
        told = f"{said}, and no other order does better: the predictions have nothing to do with the labels"
        remedy = "look at the preparation below, then at the weights: is it the trained checkpoint?"
        return Verdict(Finding(CHECK, "failed", told, remedy), learned=float(taught.mean()), hopeless=True)

    def _of_strangers(self, named: Ids, learned: Ids) -> Verdict:
        assert self.own is not None
        assert self.theirs is not None
        told = f"the labels are other classes ({self.theirs[0]!r} ...) than the teacher's ({self.own[0]!r} ...)"
        taught, (mean, bound) = (learned == named).mean(), chance(learned, named)
        if taught > bound:
            told += f"; its predictions go with them all the same: a label's most frequent one is given to {taught:.1%}"
            told += f" of other images of it (chance {mean:.1%})"
            remedy = "accuracy cannot be checked this way; evaluate a student after training"
            return Verdict(Finding(CHECK, "skipped", told, remedy))
        told += "; and its predictions have nothing to do with them"
        return Verdict(Finding(CHECK, "hint", told, "look whether this teacher knows such images, and has its weights"))

    def _learned(self, named: Ids) -> Ids:
        """[N] the most frequent prediction for an image's label among the other half of the images; -1: none."""
        half = np.zeros(len(named), np.int64)
        for label in set(self.labels.tolist()):
            half[self.labels == label] = np.arange((self.labels == label).sum()) % 2
        found = np.full(len(named), -1)
        for side in (0, 1):
            taught = _most_frequent(self.labels[half != side], named[half != side])
            found[half == side] = [taught.get(label, (-1, 0))[0] for label in self.labels[half == side].tolist()]
        return found

    def _such_as(self, named: Ids) -> str:
        """The labels whose predictions agree most, and what they are."""
        taught = _most_frequent(self.labels, named)
        first = sorted(taught, key=lambda label: -taught[label][1])[:EXAMPLES]
        return ", ".join(
            f"label {_named(self.theirs, label)} is named {_named(self.own, taught[label][0])}" for label in first
        )


def _surely_better(one: NDArray[np.bool_], two: NDArray[np.bool_]) -> bool:
    """Whether one way of reading the labels is right where another is not, more than by luck."""
    return surely_more(int((one & ~two).sum()), int((two & ~one).sum()))


def _most_frequent(labels: Ids, named: Ids) -> dict[int, tuple[int, int]]:
    """The most frequent prediction for each label, and how often it was given."""
    return {label: Counter(named[labels == label].tolist()).most_common(1)[0] for label in sorted(set(labels.tolist()))}


def _named(names: Sequence[str] | None, number: int) -> str:
    return f"{number} ({names[number]})" if names else str(number)
