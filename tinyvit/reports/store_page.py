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
from tinyvit.reports.answers import NO_LABEL, SampledRows, sample_rows
from tinyvit.reports.images import ShownImage, ViewRef, remake, thumbnail
from tinyvit.reports.labels import label_rows, shards_of
from tinyvit.reports.pages import render
from tinyvit.reports.plot import Plot
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
    answers = sample_rows(store, most, seed, progress)
    if not len(answers):
        if not answers.drawn:
            raise UserError(f"{store.location} has no answers yet: label first, then look at what was said")
        raise UserError(
            f"none of {answers.drawn:,} rows of {store.location} is an answer: their images were broken, or what the "
            f"teacher said was not finite; run `tinyvit store verify`"
        )
    labelled = label_rows(answers, store, index, progress)
    answers = labelled.answers
    facts, agreement = describe(store), statistics.agreement(answers)
    name = _namer(store.class_names)
    entropy = statistics.entropy(answers)
    summary = {
        "rows": answers.of,
        "rows_drawn": answers.drawn,
        "rows_without_answer": answers.drawn - len(answers),
        "mean_kept_mass": float(statistics.kept_mass(answers)[:, -1].mean()),
        "mean_confidence": float(answers.confidence.mean()),
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
        plots=_plots(store, answers),
        classes=[(name(c.class_id), c.rows, c.top1, c.top5) for c in statistics.by_class(answers)],
        confusions=[(name(a), name(b), rows) for a, b, rows in statistics.confusions(answers, TABLE)],
        sections=_sections(store, answers, index, name),
        searched=_searched(store, answers, index, name),
        agreement=agreement,
        table=TABLE,
    )
    write_whole(path, page.encode())
    return {**summary, "page": str(path), "page_bytes": len(page.encode())}


def _plots(store: LogitStore, answers: SampledRows) -> list[Plot]:
    found = [
        figures.progress_map(store),
        figures.confidence(answers),
        figures.entropies(answers),
        figures.kept_mass(answers),
        figures.smaller_k(answers),
    ]
    return [*found, figures.reliability(answers)] if len(answers.labelled) else found


def _sections(
    store: LogitStore, answers: SampledRows, index: ShardIndex | None, name: Callable[[int], str]
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
            rng.permutation(len(answers))[:GALLERY],
            True,
        ),
        ("Hardest", "The views of the highest entropy.", statistics.hardest(answers, HARDEST), False),
        (
            "Likely mislabelled",
            "Where the teacher prefers another class than the label by the widest margin.",
            statistics.doubtful_labels(answers, DOUBTFUL),
            False,
        ),
    ]
    # All at once: the process that makes views starts in seconds.
    places = [[_place(store, answers, row, several) for row in rows] for _, _, rows, several in groups]
    shown = iter(remake(store, index, [place for group in places for place in group], TOP))
    return [
        {"heading": heading, "lead": lead, "cards": [_card(next(shown), answers, row, name, own_names) for row in rows]}
        for heading, lead, rows, _ in groups
        if len(rows)
    ]


def _place(store: LogitStore, answers: SampledRows, row: int, several: bool) -> ViewRef:
    own = int(answers.epoch[row])
    others = (epoch for epoch in range(store.spec.epochs) if epoch != own)
    epochs = (own, *(epoch for _, epoch in zip(range(VIEWS - 1), others, strict=False))) if several else (own,)
    return ViewRef(int(answers.shard[row]), int(answers.slot[row]), tuple(sorted(epochs)))


def _card(
    shown: ShownImage, answers: SampledRows, row: int, name: Callable[[int], str], own_names: Sequence[str] | None
) -> dict[str, Any]:
    label = int(answers.label[row])
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
    agrees = "unknown" if label == NO_LABEL else "yes" if int(answers.best[row]) == label else "no"
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
    store: LogitStore, answers: SampledRows, index: ShardIndex | None, name: Callable[[int], str]
) -> dict[str, Any]:
    """Rows that the page can look up: [key, epoch, label, best class, confidence in percent], classes by number."""
    chosen = np.sort(np.random.default_rng(1).permutation(len(answers))[:SEARCHED])
    some = answers[chosen]
    ids = np.unique(np.concatenate([some.best, some.label[some.label != NO_LABEL]])).tolist()
    number = {class_id: place for place, class_id in enumerate(ids)}
    keys = _keys(store, some, index)
    rows = [
        [key, int(epoch), number.get(int(label), -1), number[int(best)], round(100 * float(sure), 1)]
        for key, epoch, label, best, sure in zip(keys, some.epoch, some.label, some.best, some.confidence, strict=True)
    ]
    return {"classes": [name(class_id) for class_id in ids], "rows": rows}


def _keys(store: LogitStore, answers: SampledRows, index: ShardIndex | None) -> list[str]:
    by_shard: dict[int, Sequence[str] | None] = {}
    for shard in np.unique(answers.shard).tolist():
        by_shard[shard] = index.keys(shard) if index else store.keys(shard)
    return [
        own[slot] if (own := by_shard[shard]) is not None else f"{store.shard_names[shard]}, slot {slot}"
        for shard, slot in zip(answers.shard.tolist(), answers.slot.tolist(), strict=True)
    ]


def _namer(names: Sequence[str] | None) -> Callable[[int], str]:
    return lambda class_id: names[class_id] if names else f"class {class_id}"
