"""A store against the teacher that was asked: views made again, logits compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from logitstore import LogitStore, Rows, Unit
from tinyvit.data.index import index_shards
from tinyvit.data.join import IndexedShard
from tinyvit.data.location import train_and_val
from tinyvit.data.render_views import render_views
from tinyvit.errors import UserError
from tinyvit.labelling.describe import stored_augment, stored_decode
from tinyvit.labelling.verify_replay import reading_differences
from tinyvit.models.teachers import Teacher
from tinyvit.runtime.progress import Progress
from tinyvit.targets.signal import valid_logits

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

    Returns how many views were compared (fewer than asked for where the units have not so many rows), and one line
    for each that differs; a line too where there was nothing to compare.

    Every stored probability must be the teacher's within the encoding's rounding, and no class that was left out
    may be more probable than one that was kept, beyond that.
    """
    if teacher.weights_sha256 != store.spec.teacher["weights_sha256"]:
        return 0, [f"the weights of {teacher.name} are not those that labelled the store; give that teacher"]
    if unlike := reading_differences(store, stored_decode(store)):
        return 0, [f"{unlike[0]}; its views can be replayed by the release that made it"]
    rng = np.random.default_rng(seed)
    index = index_shards(train_and_val(data)[0], progress)
    passes = [(epoch, unit.shard) for unit in units for epoch in store.spec.epochs_of(unit)]
    # A few of each, for a shard's images are read in a row.
    together = max(VIEWS_TOGETHER, -(-views // max(1, len(passes))))
    left, faults = views, []
    with progress.task("replay", views, "views") as bar:
        for number in rng.permutation(len(passes)):
            epoch, place = passes[number]
            rows, shard = store.read(epoch, place), index.shard(place)
            slots = rng.permutation(np.flatnonzero(rows.valid))[: min(together, left)].tolist()
            try:
                found = _compare(store, rows, shard, slots, teacher)
                left -= len(slots)
            except UserError as fault:
                found = [str(fault)]
            faults += [f"epoch {epoch} of {shard.name}: {line}" for line in found]
            bar.advance(len(slots))
            if not left:
                break
    if left == views and not faults:
        faults.append("no view was compared: there are no logits to compare with")
    return views - left, faults


def _compare(store: LogitStore, rows: Rows, shard: IndexedShard, slots: list[int], teacher: Teacher) -> list[str]:
    if not slots:
        return []
    size = int(store.spec.teacher["input_size"])
    made = render_views(shard, slots, rows.seed, stored_augment(store), stored_decode(store), size)
    views = made.whole()
    logits = teacher.logits(torch.from_numpy(np.stack(list(views.values()))))
    live = logits.softmax(dim=1).cpu().numpy()
    noise = ARITHMETIC["cuda" if teacher.device.type == "cuda" else "cpu"]
    faults = []
    for slot, p, is_one in zip(views, live, valid_logits(logits).tolist(), strict=True):
        line = _difference(store, rows, slot, p, noise) if is_one else "they are not finite"
        if line:
            faults.append(f"the teacher's logits for {made.samples[slot].key!r} are now others: {line}")
    return faults


def _difference(store: LogitStore, rows: Rows, slot: int, live: np.ndarray, noise: float) -> str | None:
    """Where stored logits are not the live ones' [C], beyond what their encoding and this noise of sqrt(p) account for.

    Looked at are the kept classes, and those that were left out.
    """
    kept = rows.probability[slot] > 0
    ids, stored = rows.class_id[slot][kept], rows.probability[slot][kept]
    outside = np.delete(live, ids)
    allowed = store.spec.coding.errors(stored) + noise
    if store.spec.selection == "sampled":
        # Systematic draws: a share is within one draw of the probability, also that of a class without any.
        one = 1 / store.spec.top_k
        nearest, most = np.clip(live[ids], stored - one, stored + one), one
    else:
        nearest, most = stored, float(live[ids].min())
    gaps = np.abs(np.sqrt(live[ids]) - np.sqrt(nearest))
    if len(outside):
        gaps = np.append(gaps, np.sqrt(outside.max()) - np.sqrt(most))
        allowed = np.append(allowed, allowed[1:].max(initial=noise))
    worst = int((gaps - allowed).argmax())
    if gaps[worst] <= allowed[worst]:
        return None
    return f"sqrt(p) differs by {gaps[worst]:.4f}, allowed is {allowed[worst]:.4f}"
