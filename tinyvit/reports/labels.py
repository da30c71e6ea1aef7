"""The labels of rows, as ids of the teacher's classes, where the two have classes in common."""

from __future__ import annotations

from dataclasses import dataclass

from logitstore import LogitStore
from tinyvit.classes import match_classes
from tinyvit.data.index import ShardIndex, index_shards
from tinyvit.data.location import train_and_val
from tinyvit.errors import UserError
from tinyvit.labelling.verify_data import data_differences
from tinyvit.reports.sampled_rows import NO_LABEL, SampledRows, with_labels
from tinyvit.runtime.progress import Progress


@dataclass(frozen=True)
class Labelled:
    """Rows with labels, as far as they can be had, and why not where they cannot."""

    sampled: SampledRows
    note: str


def shards_of(store: LogitStore, data: str, progress: Progress) -> ShardIndex:
    """The index of the shards that a store was made from; `data` may hold them in `train`. UserError for others."""
    index = index_shards(train_and_val(data)[0], progress)
    if differences := data_differences(store, index):
        raise UserError(f"{data} is not what {store.location} was made from: {differences[0]}; give those shards")
    return index


def label_rows(sampled: SampledRows, store: LogitStore, index: ShardIndex | None, progress: Progress) -> Labelled:
    """The rows with the labels of their images, as ids of the teacher's classes."""
    if index is None:
        return Labelled(sampled, "no shards were given (--data), so there is neither a label nor an image")
    own, theirs = store.class_names, index.class_names
    classes = None
    if own is not None and theirs is not None:
        try:
            classes = match_classes(theirs, own, ("the data", "the teacher"))
        except UserError as fault:
            return Labelled(sampled, f"nothing is said of agreement: {fault}")
        if max(classes) < 0:
            return Labelled(sampled, "the labels are of other classes than the teacher's: nothing is said of agreement")
    found = with_labels(sampled, index, classes, progress)
    if (found.label == NO_LABEL).all():
        return Labelled(found, "the shards have no labels, so nothing is said of agreement")
    if own is None or theirs is None:
        return Labelled(found, "the labels are taken for the teacher's class ids: the shards do not name their classes")
    unknown = classes.count(-1) if classes else 0
    less = f", but {unknown} of the data's {len(theirs)} classes are none of its" if unknown else ""
    rows = int((found.label == NO_LABEL).sum())
    without = f"; {rows:,} of {len(found):,} rows have no label that is one" if rows else ""
    return Labelled(found, f"the labels are matched with the teacher's classes by name{less}{without}")
