"""`tinyvit report`: training runs on one page that opens without a network, several beside each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from logitstore import LogitStore, StoreError, write_whole
from tinyvit.data.index import ShardIndex
from tinyvit.errors import UserError
from tinyvit.models import WEIGHTS, load_student
from tinyvit.reports.against_teacher import Against, compare
from tinyvit.reports.images import ViewRef, remake, thumbnail
from tinyvit.reports.labels import shards_of
from tinyvit.reports.pages import render, short_name
from tinyvit.reports.plot import Plot
from tinyvit.reports.run_figures import confusion, run_plots
from tinyvit.reports.sampled_rows import SampledRows, sample_rows
from tinyvit.reports.stages import StageRun
from tinyvit.runtime.progress import Progress

# Views with the teacher's logits on the page, classes of a row, classes in a confusion matrix, rows of a table.
SHOWN_VIEWS, TOP, MATRIX, TABLE = 4, 5, 12, 15

Lines = Sequence[tuple[str, str]]


def write_run_page(
    path: Path,
    stages: Mapping[str, Path],
    store: str | None,
    data: str | None,
    views: int,
    seed: int,
    progress: Progress,
    title: str = "Training",
    lead: str = "",
    figures: Lines = (),
    places: Lines = (),
) -> dict[str, Any]:
    """Write the page about the stages in these folders, by the names they get in legends; returns it in numbers.

    Students that learned from a teacher are asked about so many stored views, drawn by a seed: of the store and the
    shards that are named here, else of those that they were trained on. `lead`, `figures` and `places` stand above and
    below where there is more to say. UserError for a folder that is no stage's, and for shards that are not those of
    the store.
    """
    runs = [StageRun.read(name, folder) for name, folder in stages.items()]
    compared: list[dict[str, Any]] = []
    shown: list[dict[str, Any]] = []
    notes: list[str] = []
    for run in (run for run in runs if run.plan["target"] == "teacher"):
        source = _source(run, store, data, progress)
        if isinstance(source, str):
            notes.append(f"{run.name} is not compared with its teacher: {source}")
            continue
        opened, index = source
        sampled = sample_rows(opened, views, seed, progress)
        if not len(sampled):
            notes.append(f"{run.name} is not compared with its teacher: {opened.location} has no logits")
            continue
        if found := compare(load_student(run.folder), sampled, opened, index, progress):
            compared.append(_compared(run, found, _namer(opened)))
        shown = shown or _views(opened, index, sampled)
    document = {
        "stages": [_line(run) for run in runs],
        "compared": [
            {"stage": c["name"], "views": c["views"], "agreement": c["agreement"], "among_five": c["among_five"]}
            for c in compared
        ],
        "notes": notes,
    }
    page = render(
        "run.html.j2",
        title=title,
        lead=lead,
        figures=figures,
        places=places,
        lines=document["stages"],
        plots=run_plots(runs),
        compared=compared,
        notes=notes,
        seed=seed,
        views=shown,
    )
    write_whole(path, page.encode())
    return {**document, "page": str(path), "page_bytes": len(page.encode())}


def _line(run: StageRun) -> dict[str, Any]:
    last = run.epochs[-1] if run.epochs else run.steps[-1] if run.steps else {}
    _, validated = run.validated("top1")
    return {
        "name": run.name,
        "learns": {"teacher": "logits"}.get(run.plan["target"], run.plan["target"]),
        "epochs": len(run.epochs),
        "of_epochs": run.plan["epochs"],
        "state": "finished" if run.finished else "under way, or stopped",
        "loss": last.get("loss"),
        "agreement": last.get("agreement"),
        "train_top1": last.get("train_top1"),
        "val_top1": validated[-1] if validated else None,
        "best_val_top1": max(validated, default=None),
        "images_per_s": last.get("images_per_s"),
        "waiting_for_data": last.get("waiting_for_data"),
    }


def _source(
    run: StageRun, store: str | None, data: str | None, progress: Progress
) -> tuple[LogitStore, ShardIndex] | str:
    """The store and the shards that a stage learned from, or why it cannot be compared with them."""
    if not (run.folder / WEIGHTS).is_file():
        return "it has no student yet"
    location = store or run.record["store"]
    if location is None:
        return "it learned from a live teacher; name a store of that teacher with --store"
    try:
        opened = LogitStore.open(location)
        if opened.spec.num_classes != int(load_student(run.folder).num_classes):  # type: ignore[arg-type]
            return f"{location} is of another teacher, with {opened.spec.num_classes} classes"
        return opened, shards_of(opened, data or run.record["recipe"]["data"]["train"], progress)
    except (StoreError, UserError) as fault:
        if store or data:
            raise
        return str(fault)


def _compared(run: StageRun, found: Against, name: Callable[[int], str]) -> dict[str, Any]:
    first, teacher, student = found.among(MATRIX)
    names = [*(short_name(name(class_id)) for class_id in first), "another"]
    matrix: Plot = confusion(teacher, student, names, run.name)
    return {
        "name": run.name,
        "views": len(found.teacher),
        "agreement": found.agreement,
        "among_five": found.among_five,
        "pairs": [(name(one), name(two), count) for one, two, count in found.confusions(TABLE)],
        "matrix": matrix,
    }


def _views(store: LogitStore, index: ShardIndex, sampled: SampledRows) -> list[dict[str, Any]]:
    """Some of the views, with what the teacher said."""
    name = _namer(store)
    rows = range(0, len(sampled), max(1, len(sampled) // SHOWN_VIEWS))[:SHOWN_VIEWS]
    places = [ViewRef(int(sampled.shard[r]), int(sampled.slot[r]), (int(sampled.epoch[r]),)) for r in rows]
    return [
        {
            "key": shown.key,
            "epoch": view.epoch,
            "seed": view.seed,
            "source": None if view.pixels is None else thumbnail(view.pixels),
            "classes": [{"share": f"{100 * p:.1f} %", "name": name(c)} for c, p in view.classes],
        }
        for shown in remake(store, index, places, TOP)
        for view in shown.views
    ]


def _namer(store: LogitStore) -> Callable[[int], str]:
    names = store.class_names
    return lambda class_id: names[class_id] if names else f"class {class_id}"
