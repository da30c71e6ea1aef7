"""`tinyvit store report`: a store on one page that opens without a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from logitstore import LogitStore, write_whole
from tinyvit.data.index import ShardIndex
from tinyvit.errors import UserError
from tinyvit.labelling.describe import describe
from tinyvit.reports import figures, statistics
from tinyvit.reports.images import ShownImage, ViewRef, remake, thumbnail
from tinyvit.reports.labels import label_rows, shards_of
from tinyvit.reports.pages import render
from tinyvit.reports.plot import Plot
from tinyvit.reports.sampled_rows import NO_LABEL, SampledRows, sample_rows
from tinyvit.runtime.progress import Progress

# On the page: images of each kind, views of an image, classes of a view, rows of a table, rows that one can search.
GALLERY, HARDEST, DOUBTFUL = 16, 8, 8
VIEWS, TOP = 4, 5
TABLE = 30
SEARCHED = 4000


def write_store_page(
    path: Path, store: LogitStore, data: str | None, most: int, seed: int, progress: Progress
) -> dict[str, Any]:
    """Write the page from at most so many rows, drawn by a seed; returns what it says in numbers.

    Without `data` there are neither images nor labels. UserError for shards that are not those of the store, and
    for a store without a single row.
    """
    index = shards_of(store, data, progress) if data is not None else None
    sampled = sample_rows(store, most, seed, progress)
    if not len(sampled):
        if not sampled.drawn:
            raise UserError(f"{store.location} has no logits yet: label first, then look at what was said")
        raise UserError(
            f"none of {sampled.drawn:,} rows of {store.location} is valid: their images were broken, or what the "
            f"teacher said was not finite; run `tinyvit store verify`"
        )
    labelled = label_rows(sampled, store, index, progress)
    sampled = labelled.sampled
    facts, agreement = describe(store), statistics.agreement(sampled)
    name = _namer(store.class_names)
    entropy = statistics.entropy(sampled)
    summary = {
        "rows": sampled.of,
        "rows_drawn": sampled.drawn,
        "rows_without_answer": sampled.drawn - len(sampled),
        "mean_kept_mass": float(statistics.kept_mass(sampled)[:, -1].mean()),
        "mean_confidence": float(sampled.confidence.mean()),
        "mean_entropy": float(entropy.mean()),
        "labels": labelled.note,
        "agreement": vars(agreement) if agreement else None,
    }
    page = render(
        "store.html.j2",
        title=f"What the teacher said: {Path(store.location).name}",
        location=store.location,
        facts=facts,
        summary=summary,
        seed=seed,
        plots=_plots(store, sampled),
        classes=[(name(c.class_id), c.rows, c.top1, c.top5) for c in statistics.by_class(sampled)],
        confusions=[(name(a), name(b), rows) for a, b, rows in statistics.confusions(sampled, TABLE)],
        sections=_sections(store, sampled, index, name),
        searched=_searched(store, sampled, index, name),
        agreement=agreement,
        table=TABLE,
    )
    write_whole(path, page.encode())
    return {**summary, "page": str(path), "page_bytes": len(page.encode())}


def _plots(store: LogitStore, sampled: SampledRows) -> list[Plot]:
    found = [
        figures.progress_map(store),
        figures.confidence(sampled),
        figures.entropies(sampled),
        figures.kept_mass(sampled),
        figures.smaller_k(sampled),
    ]
    return [*found, figures.reliability(sampled)] if len(sampled.labelled) else found


def _sections(
    store: LogitStore, sampled: SampledRows, index: ShardIndex | None, name: Callable[[int], str]
) -> list[dict[str, Any]]:
    """The images, a group of them under each heading."""
    if index is None:
        return []
    rng = np.random.default_rng(0)
    own_names = index.class_names
    groups = [
        (
            "Gallery",
            "Images drawn at random, each with several of its views.",
            rng.permutation(len(sampled))[:GALLERY],
            True,
        ),
        ("Hardest", "The views of the highest entropy.", statistics.hardest(sampled, HARDEST), False),
        (
            "Likely mislabelled",
            "Where the teacher prefers another class than the label by the widest margin.",
            statistics.doubtful_labels(sampled, DOUBTFUL),
            False,
        ),
    ]
    # All at once: the process that makes views starts in seconds.
    places = [[_place(store, sampled, row, several) for row in rows] for _, _, rows, several in groups]
    shown = iter(remake(store, index, [place for group in places for place in group], TOP))
    return [
        {"heading": heading, "lead": lead, "cards": [_card(next(shown), sampled, row, name, own_names) for row in rows]}
        for heading, lead, rows, _ in groups
        if len(rows)
    ]


def _place(store: LogitStore, sampled: SampledRows, row: int, several: bool) -> ViewRef:
    own = int(sampled.epoch[row])
    others = (epoch for epoch in range(store.spec.epochs) if epoch != own)
    epochs = (own, *(epoch for _, epoch in zip(range(VIEWS - 1), others, strict=False))) if several else (own,)
    return ViewRef(int(sampled.shard[row]), int(sampled.slot[row]), tuple(sorted(epochs)))


def _card(
    shown: ShownImage, sampled: SampledRows, row: int, name: Callable[[int], str], own_names: Sequence[str] | None
) -> dict[str, Any]:
    label = int(sampled.label[row])
    views: list[dict[str, Any]] = [
        {
            "epoch": view.epoch,
            "seed": view.seed,
            "source": None if view.pixels is None else thumbnail(view.pixels),
            "residual": view.residual,
            "classes": [(name(c), p, c == label) for c, p in view.classes],
        }
        for view in shown.views
    ]
    said = [entry[0] for view in views for entry in view["classes"][:1]]
    known = _own_name(shown.label, own_names)
    agrees = "unknown" if label == NO_LABEL else "yes" if int(sampled.best[row]) == label else "no"
    return {
        "key": shown.key,
        "label": known,
        "agrees": agrees,
        "source": None if shown.pixels is None else thumbnail(shown.pixels),
        "views": views,
        "search": " ".join([shown.key, known or "", *said]).lower(),
    }


def _own_name(label: int | None, own_names: Sequence[str] | None) -> str | None:
    """A label in the data's own words."""
    if label is None or own_names is None or not 0 <= label < len(own_names):
        return None if label is None else str(label)
    return own_names[label]


def _searched(
    store: LogitStore, sampled: SampledRows, index: ShardIndex | None, name: Callable[[int], str]
) -> dict[str, Any]:
    """Rows that the page can look up: [key, epoch, label, best class, confidence in percent], classes by number."""
    chosen = np.sort(np.random.default_rng(1).permutation(len(sampled))[:SEARCHED])
    some = sampled[chosen]
    ids = np.unique(np.concatenate([some.best, some.label[some.label != NO_LABEL]])).tolist()
    number = {class_id: place for place, class_id in enumerate(ids)}
    keys = _keys(store, some, index)
    rows = [
        [key, int(epoch), number.get(int(label), -1), number[int(best)], round(100 * float(sure), 1)]
        for key, epoch, label, best, sure in zip(keys, some.epoch, some.label, some.best, some.confidence, strict=True)
    ]
    return {"classes": [name(class_id) for class_id in ids], "rows": rows}


def _keys(store: LogitStore, sampled: SampledRows, index: ShardIndex | None) -> list[str]:
    by_shard: dict[int, Sequence[str] | None] = {}
    for shard in np.unique(sampled.shard).tolist():
        by_shard[shard] = index.keys(shard) if index else store.keys(shard)
    return [
        own[slot] if (own := by_shard[shard]) is not None else f"{store.shard_names[shard]}, slot {slot}"
        for shard, slot in zip(sampled.shard.tolist(), sampled.slot.tolist(), strict=True)
    ]


def _namer(names: Sequence[str] | None) -> Callable[[int], str]:
    return lambda class_id: names[class_id] if names else f"class {class_id}"
