"""The ways in which the labels of a data set may be meant as classes of a teacher."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from timm.data import ImageNetInfo

from tinyvit.classes import match_classes, synsets
from tinyvit.errors import UserError

# timm's ImageNet lists; of one length there may be several in different orders.
LISTS = ("imagenet-1k", "imagenet-12k", "imagenet-22k", "imagenet-22k-ms", "imagenet-21k-goog", "imagenet-21k-miil")
GIVEN = "as given"
TO_DATA = "write the names into classes.txt in the order of the labels, or number the labels by classes.txt"
TO_TEACHER = "give the teacher's class names in the order of its outputs: --classes FILE, in a recipe label.classes"


@dataclass(frozen=True)
class Order:
    """One such way: the teacher's class of each label [labels], -1 for none."""

    name: str
    classes: NDArray[np.int64]
    remedy: str = ""

    def of(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """The classes of labels [N], -1 for none."""
        known = labels < len(self.classes)
        return np.where(known, self.classes[np.where(known, labels, 0)], -1)


def orders(own: Sequence[str] | None, theirs: Sequence[str] | None, count: int) -> list[Order]:
    """First the order as given, then others that occur in practice, none twice.

    `own` are the names of the teacher's `count` classes, `theirs` those of the labels; None where they are not known,
    and then labels are taken for the teacher's ids. An order without any class in common is left out, and so may the
    given one be.
    """
    found: list[Order] = []
    for order in _all(own, theirs, count):
        known = order.classes >= 0
        if known.any() and not any(np.array_equal(order.classes, other.classes) for other in found):
            found.append(order)
    return found


def _all(own: Sequence[str] | None, theirs: Sequence[str] | None, count: int) -> Iterator[Order]:
    ids = Order("labels are the teacher's class ids", np.arange(count))
    given = ids
    if own is not None and theirs is not None:
        given = Order(GIVEN, np.array(match_classes(theirs, own, ("the data", "the teacher")), np.int64))
    yield given
    yield from _lists(own, theirs, count)
    if own is not None and theirs is not None:
        yield Order("classes matched by their words", _by_words(own, theirs), "write the same names in both lists")
        if len(theirs) <= count:
            identity = np.arange(len(theirs))
            yield Order("labels are the teacher's class ids", identity, "give both the same list of class names")
    labels = len(given.classes)
    for name, places in (
        ("labels begin with 1", np.arange(labels) - 1),
        ("labels are one too small", np.arange(labels) + 1),
        ("folders 0, 1, 10, 100 were numbered as words", np.array(_as_words(labels))),
        ("class names 0, 1, 10, 100 were sorted as words", np.argsort(_as_words(labels))),
    ):
        inside = (places >= 0) & (places < labels)
        yield Order(name, np.where(inside, given.classes[places.clip(0, labels - 1)], -1), TO_DATA)
    for name, shift in (("the teacher's class 0 is a background", 1), ("the teacher's list has a class too many", -1)):
        moved = given.classes + shift
        yield Order(name, np.where((given.classes < 0) | (moved < 0) | (moved >= count), -1, moved), TO_TEACHER)


def _lists(own: Sequence[str] | None, theirs: Sequence[str] | None, count: int) -> Iterator[Order]:
    """Orders by other lists of names than the given ones, for the labels or for the teacher's classes."""
    of_data = _lists_like(theirs, len(theirs) if theirs else count, "the labels are")
    of_teacher = _lists_like(own, count, "the teacher's classes are")
    if theirs is not None:
        yield from (Order(name, _by_name(names, theirs), TO_TEACHER) for name, names in of_teacher)
    if own is not None:
        yield from (Order(name, _by_name(own, names), TO_DATA) for name, names in of_data)
    for one, names in of_teacher:
        for two, others in of_data:
            yield Order(f"{one}, {two}", _by_name(names, others), f"{TO_TEACHER}; {TO_DATA}")


def _lists_like(names: Sequence[str] | None, count: int, what: str) -> list[tuple[str, Sequence[str]]]:
    found: list[tuple[str, Sequence[str]]] = [(f"{what} in alphabetical order", sorted(names))] if names else []
    for subset in LISTS:
        if len(listed := synsets(subset)) == count:
            found.append((f"{what} in the order of {subset}", listed))
    return found


def _by_name(own: Sequence[str], theirs: Sequence[str]) -> NDArray[np.int64]:
    """By another list than the given one; none where that leaves open which is which."""
    try:
        return np.array(match_classes(theirs, own), np.int64)
    except UserError:
        return np.full(len(theirs), -1)


def _by_words(own: Sequence[str], theirs: Sequence[str]) -> NDArray[np.int64]:
    place = {_words(name): number for number, name in enumerate(own)}
    return np.array([place.get(_words(name), -1) for name in theirs], np.int64)


def _words(name: str) -> str:
    """What a class is called first: of `n01440764 tench, Tinca tinca` and of `n01440764` it is tench."""
    synset, _, text = name.partition(" ") if re.match(r"n\d{8}\b", name) else ("", "", name)
    text = text or _described().get(synset, synset)
    return " ".join(re.findall(r"\w+", text.split(",")[0].lower()))


@cache
def _described() -> dict[str, str]:
    """What WordNet calls its synsets, as far as they are in ImageNet."""
    known = ImageNetInfo("imagenet-22k")
    return {synset: known.label_name_to_description(synset) for synset in synsets("imagenet-22k")}


def _as_words(count: int) -> list[int]:
    return [int(number) for number in sorted(map(str, range(count)))]
