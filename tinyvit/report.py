"""A run on one page: figures, curves, a few views with the teacher's answers. Opens without a network."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure
from PIL import Image

from storage import LogitStore, write_whole
from tinyvit.config import Augment
from tinyvit.curves import draw, draw_accuracy
from tinyvit.data.images import decode
from tinyvit.data.join import checked_samples, indexed_shards
from tinyvit.replay import view
from tinyvit.stage_folder import read_metrics
from tinyvit.store_facts import best_classes

SHOWN_VIEWS = 4


def write_report(
    path: Path,
    title: str,
    lead: str,
    figures: Sequence[tuple[str, str]],
    places: Sequence[tuple[str, str]],
    stages: Mapping[str, Path],
    store: LogitStore,
    data: Path,
) -> None:
    """Write the page. `stages` are the folders whose curves are drawn, by the name they get in the legend."""
    # Keys and class names come from foreign files: everything on the page is escaped.
    page = Environment(loader=PackageLoader("tinyvit"), autoescape=True).get_template("run.html.j2")
    text = page.render(
        title=title,
        lead=lead,
        figures=figures,
        places=places,
        pictures=[_curves(stages)],
        shard=store.table.name[0],
        views=_views(store, data),
    )
    write_whole(path, text.encode())


def _curves(stages: Mapping[str, Path]) -> dict[str, str]:
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    runs = {name: read_metrics(folder) for name, folder in stages.items()}
    draw(left, runs, "loss", "training loss [nat]")
    draw_accuracy(right, runs)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    ends = [f"{name} ends at a loss of {m[-1]['loss']:.2f}" for name, m in runs.items() if m]
    text = "Left: training loss over epochs. Right: accuracy over epochs. " + ", ".join(ends)
    return {"source": _data_uri(buffer.getvalue(), "svg+xml"), "text": text}


def _views(store: LogitStore, data: Path) -> list[dict[str, Any]]:
    shard = indexed_shards(data, store.table)[0]
    augment, size = Augment.model_validate(dict(store.spec.augment)), int(store.spec.teacher["input_size"])
    names = store.class_names
    shown = []
    for sample in checked_samples(shard):
        epoch = sample.slot % store.spec.epochs
        rows = store.read(epoch, 0)
        if rows.valid[sample.slot]:
            pixels = view(decode(sample.image), int(rows.seed[sample.slot]), augment, size)
            best = best_classes(rows, sample.slot)
            shown.append(
                {
                    "key": sample.key,
                    "epoch": epoch,
                    "seed": int(rows.seed[sample.slot]),
                    "source": _data_uri(_png(Image.fromarray(pixels)), "png"),
                    "classes": [
                        {"share": f"{100 * p:.1f} %", "name": names[int(c)] if names else f"class {c}"}
                        for c, p in best[:5]
                    ],
                }
            )
        if len(shown) == SHOWN_VIEWS:
            break
    return shown


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
