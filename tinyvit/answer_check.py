"""A store against the teacher that was asked: views made again, answers compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from storage import ENCODINGS, LogitStore, Rows, Unit
from tinyvit.data.index import index_shards
from tinyvit.data.join import IndexedShard
from tinyvit.data.made_views import make_views
from tinyvit.data.place import train_and_val
from tinyvit.errors import UserError
from tinyvit.progress import Progress
from tinyvit.replay_check import reading_differences
from tinyvit.store_facts import stored_augment, stored_decode
from tinyvit.teachers import Teacher

# Difference of sqrt(p) that another batch size, another processor or bfloat16 makes, beside the encoding's own.
ARITHMETIC = {"cpu": 1e-3, "cuda": 2e-2}
# Of one shard and epoch, so that a replay of few views meets many of both.
VIEWS_TOGETHER = 8


def replay_faults(
    store: LogitStore,
    data: str | Path,
    teacher: Teacher,
    units: Sequence[Unit],
    views: int,
    seed: int,
    progress: Progress,
) -> tuple[int, list[str]]:
    """Make random views of these units again, ask the teacher again and compare.

    Returns how many views were compared (fewer than asked for where the units have not so many), and one line for
    each that differs.

    Every stored probability must be the teacher's within the encoding's rounding, and no class that was left out
    may be more probable than one that was kept, beyond that.
    """
    if teacher.weights_sha256 != store.spec.teacher["weights_sha256"]:
        return 0, [f"the weights of {teacher.name} are not those that labelled the store; give that teacher"]
    if unlike := reading_differences(store, stored_decode(store)):
        return 0, [f"{unlike[0]}; its views can be replayed by the release that made it"]
    rng = np.random.default_rng(seed)
    index = index_shards(train_and_val(data)[0], progress)
    replayed, faults = 0, []
    with progress.task("replay", views, "views") as bar:
        for epoch, number, count in _random_views(store, units, views, rng):
            rows, shard = store.read(epoch, number), index.shard(number)
            slots = rng.permutation(np.flatnonzero(rows.valid))[:count].tolist()
            try:
                found = _compare(store, rows, shard, slots, teacher)
                replayed += len(slots)
            except UserError as fault:
                found = [str(fault)]
            faults += [f"epoch {epoch} of {shard.name}: {line}" for line in found]
            bar.advance(len(slots))
    return replayed, faults


def _random_views(
    store: LogitStore, units: Sequence[Unit], views: int, rng: np.random.Generator
) -> Iterator[tuple[int, int, int]]:
    """(epoch, shard, how many views) until there are enough; a few of each, for a shard's images are read in a row."""
    passes = [(epoch, unit.shard) for unit in units for epoch in store.spec.epochs_of(unit)]
    chosen = [passes[i] for i in rng.permutation(len(passes))]
    least = max(VIEWS_TOGETHER, -(-views // max(1, len(chosen))))
    for epoch, shard in chosen:
        count = min(least, views, store.table.samples[shard])
        yield epoch, shard, count
        views -= count
        if not views:
            return


def _compare(store: LogitStore, rows: Rows, shard: IndexedShard, slots: list[int], teacher: Teacher) -> list[str]:
    if not slots:
        return []
    size = int(store.spec.teacher["input_size"])
    made = make_views(shard, slots, rows.seed, stored_augment(store), stored_decode(store), size)
    views = made.whole()
    live = teacher.answer(torch.from_numpy(np.stack(list(views.values())))).softmax(dim=1).cpu().numpy()
    bound = ENCODINGS[store.spec.encoding].max_error
    bound += ARITHMETIC["cuda" if teacher.device.type == "cuda" else "cpu"]
    gaps = [(made.samples[slot].key, _gap(store, rows, slot, p)) for slot, p in zip(views, live, strict=True)]
    return [
        f"the teacher's answer to {key!r} is now another one: sqrt(p) differs by {gap:.4f}, allowed is {bound:.4f}"
        for key, gap in gaps
        if gap > bound
    ]


def _gap(store: LogitStore, rows: Rows, slot: int, live: np.ndarray) -> float:
    """The largest difference of sqrt(p), over the kept classes and to the classes that were left out."""
    kept = rows.probability[slot] > 0
    ids, stored = rows.class_id[slot][kept], rows.probability[slot][kept]
    outside = np.delete(live, ids)
    if store.spec.selection == "sampled":
        # Systematic draws: a share is within one draw of the probability, also that of a class without any.
        one = 1 / store.spec.top_k
        nearest = np.concatenate([np.clip(live[ids], stored - one, stored + one), np.minimum(outside, one)])
        return float(np.abs(np.sqrt(np.concatenate([live[ids], outside])) - np.sqrt(nearest)).max())
    gap = float(np.abs(np.sqrt(live[ids]) - np.sqrt(stored)).max())
    if len(outside):
        gap = max(gap, float(np.sqrt(outside.max()) - np.sqrt(live[ids].min())))
    return gap
