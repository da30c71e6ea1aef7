"""Rows of a store drawn at random, as flat arrays: what statistics are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitstore import LogitStore, Unit
from tinyvit.data.index import ShardIndex
from tinyvit.runtime.progress import Progress

# A row is read with its whole shard's epoch; of so many of them at least, where there are as many.
PLACES = 64

NO_LABEL = -1


@dataclass(frozen=True)
class SampledRows:
    """N valid rows of a store.

    epoch, shard, slot [N]; seed [N] uint32; class_id [N, K] and probability [N, K], the most probable class first,
    probability 0 where a row has fewer than K; residual [N], the mass outside; label [N], the id that the label has
    among the teacher's classes, NO_LABEL where it is not known.

    `drawn` rows were looked at, of `of` in the store; those without logits are not among the N.
    """

    num_classes: int
    of: int
    drawn: int
    epoch: NDArray[np.intp]
    shard: NDArray[np.intp]
    slot: NDArray[np.intp]
    seed: NDArray[np.uint32]
    class_id: NDArray[np.intp]
    probability: NDArray[np.float64]
    residual: NDArray[np.float64]
    label: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.epoch)

    def __getitem__(self, chosen: NDArray[np.intp] | NDArray[np.bool_]) -> SampledRows:
        """Some of the rows."""
        return replace(self, **{name: values[chosen] for name, values in self._arrays().items()})

    @property
    def best(self) -> NDArray[np.intp]:
        """[N] the most probable class."""
        return self.class_id[:, 0]

    @property
    def confidence(self) -> NDArray[np.float64]:
        """[N] its probability."""
        return self.probability[:, 0]

    @property
    def labelled(self) -> SampledRows:
        """The rows whose label is known."""
        return self[self.label != NO_LABEL]

    def of_class(self, wanted: NDArray[np.intp]) -> NDArray[np.float64]:
        """[N] the probability of one class of each row; of one that was not kept its share of the residual."""
        kept = (self.class_id == wanted[:, None]) & (self.probability > 0)
        return np.where(kept.any(axis=1), (self.probability * kept).sum(axis=1), self.spread)

    @property
    def spread(self) -> NDArray[np.float64]:
        """[N] the probability of each class that was not kept, the residual being spread evenly over them."""
        rest = self.num_classes - (self.probability > 0).sum(axis=1)
        return np.where(rest > 0, self.residual / np.maximum(rest, 1), 0.0)

    def _arrays(self) -> dict[str, Any]:
        return {name: values for name, values in vars(self).items() if isinstance(values, np.ndarray)}


def sample_rows(store: LogitStore, most: int, seed: int, progress: Progress) -> SampledRows:
    """At most so many rows of the units that are there, from many shards and epochs; the same seed, the same rows."""
    rng = np.random.default_rng(seed)
    absent = set() if store.sealed else set(store.missing())
    places = [
        (epoch, shard)
        for epoch in range(store.spec.epochs)
        for shard in range(len(store.samples))
        if Unit(epoch // store.spec.epochs_per_unit, shard) not in absent
    ]
    total = sum(store.samples[shard] for _, shard in places)
    each = most if total <= most else -(-most // min(len(places), PLACES))
    chosen: list[tuple[int, int, NDArray[np.intp]]] = []
    left = most
    for number in rng.permutation(len(places)).tolist():
        epoch, shard = places[number]
        count = min(each, left, store.samples[shard])
        chosen.append((epoch, shard, np.sort(rng.choice(store.samples[shard], count, replace=False))))
        left -= count
        if left == 0:
            break
    return replace(read_rows(store, sorted(chosen, key=lambda place: place[:2]), progress), of=total)


def read_rows(
    store: LogitStore, places: Sequence[tuple[int, int, NDArray[np.intp]]], progress: Progress
) -> SampledRows:
    """The rows of these slots of these (epoch, shard), in that order, less those without logits."""
    found: dict[str, list[NDArray[np.generic]]] = {}
    drawn = sum(len(slots) for _, _, slots in places)
    with progress.task("read", drawn, "rows") as bar:
        for epoch, shard, slots in places:
            rows = store.read(epoch, shard)
            valid = slots[rows.valid[slots]]
            order = np.argsort(-rows.probability[valid], axis=1, kind="stable")
            for name, values in {
                "epoch": np.full(len(valid), epoch),
                "shard": np.full(len(valid), shard),
                "slot": valid,
                "seed": rows.seed[valid],
                "class_id": np.take_along_axis(rows.class_id[valid], order, axis=1).astype(np.intp),
                "probability": np.take_along_axis(rows.probability[valid], order, axis=1).astype(np.float64),
                "residual": rows.residual[valid].astype(np.float64),
                "label": np.full(len(valid), NO_LABEL),
            }.items():
                found.setdefault(name, []).append(values)
            bar.advance(len(slots))
    empty = {name: np.zeros(0, np.intp) for name in ("epoch", "shard", "slot", "label")} | {
        "seed": np.zeros(0, np.uint32),
        "class_id": np.zeros((0, store.spec.top_k), np.intp),
        "probability": np.zeros((0, store.spec.top_k)),
        "residual": np.zeros(0),
    }
    arrays = {name: np.concatenate(found[name]) if found else none for name, none in empty.items()}
    return SampledRows(store.spec.num_classes, drawn, drawn, **arrays)  # type: ignore[arg-type]


def with_labels(
    sampled: SampledRows, index: ShardIndex, classes: Sequence[int] | None, progress: Progress
) -> SampledRows:
    """The same rows with the labels of their samples. `classes`: the teacher's id of each label, -1 for none; None
    where they are the same.

    Labels without an id among the teacher's classes stay unknown.
    """
    label = np.full(len(sampled), NO_LABEL)
    order = np.lexsort((sampled.slot, sampled.shard))
    known = np.arange(sampled.num_classes) if classes is None else np.asarray(classes)
    with progress.task("labels", len(sampled), "rows") as bar:
        for shard, rows in groupby(order.tolist(), key=lambda row: int(sampled.shard[row])):
            where = list(rows)
            slots = sorted({int(sampled.slot[row]) for row in where})
            # A part at a time: the images come along with the labels.
            labels: dict[int, int] = {}
            for part in _parts(slots):
                for slot, sample in zip(part, index.shard(shard).read(part), strict=True):
                    own = sample.label if sample.label is not None else -1
                    labels[slot] = int(known[own]) if 0 <= own < len(known) else NO_LABEL
            label[where] = [labels[int(sampled.slot[row])] for row in where]
            bar.advance(len(where))
    return replace(sampled, label=label)


def _parts(slots: list[int], size: int = 64) -> Iterator[list[int]]:
    return (slots[first : first + size] for first in range(0, len(slots), size))
