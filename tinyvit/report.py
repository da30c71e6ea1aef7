"""A run on one page: figures, curves, a few views with the teacher's answers. Opens without a network."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from storage import LogitStore, write_whole
from tinyvit.curves import draw, draw_accuracy
from tinyvit.data.index import ShardIndex, index_shards
from tinyvit.inspection.pictures import Place, remake, thumbnail
from tinyvit.pages import render
from tinyvit.progress import LogProgress
from tinyvit.training.folder import read_epochs

SHOWN_VIEWS = 4


def write_report(
    path: Path,
    title: str,
    lead: str,
    figures: Sequence[tuple[str, str]],
    places: Sequence[tuple[str, str]],
    stages: Mapping[str, Path],
    store: LogitStore,
    data: str,
) -> None:
    """Write the page. `stages` are the folders whose curves are drawn, by the name they get in the legend."""
    text = render(
        "run.html.j2",
        title=title,
        lead=lead,
        figures=figures,
        places=places,
        pictures=[_curves(stages)],
        shard=store.table.name[0],
        views=_views(store, index_shards(data, LogProgress())),
    )
    write_whole(path, text.encode())


def _curves(stages: Mapping[str, Path]) -> dict[str, str]:
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    runs = {name: read_epochs(folder) for name, folder in stages.items()}
    draw(left, runs, "loss", "training loss [nat]")
    draw_accuracy(right, runs)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    ends = [f"{name} ends at a loss of {m[-1]['loss']:.2f}" for name, m in runs.items() if m]
    text = "Left: training loss over epochs. Right: accuracy over epochs. " + ", ".join(ends)
    return {"source": _data_uri(buffer.getvalue()), "text": text}


def _views(store: LogitStore, index: ShardIndex) -> list[dict[str, Any]]:
    """The first pictures of a store, a view of each, of another epoch each time."""
    places = [Place(0, slot, (slot % store.spec.epochs,)) for slot in range(min(SHOWN_VIEWS, store.samples[0]))]
    names = store.class_names
    return [
        {
            "key": shown.key,
            "epoch": view.epoch,
            "seed": view.seed,
            "source": None if view.pixels is None else thumbnail(view.pixels),
            "classes": [
                {"share": f"{100 * p:.1f} %", "name": names[c] if names else f"class {c}"} for c, p in view.classes
            ],
        }
        for shown in remake(store, index, places, 5)
        for view in shown.views
    ]


def _data_uri(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
