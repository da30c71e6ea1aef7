"""A run on one page: figures, curves, a few views with the teacher's answers. Opens without a network."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from storage import LogitStore, write_whole
from tinyvit.curves import draw, draw_accuracy
from tinyvit.data.index import ShardIndex, index_shards
from tinyvit.data.loader import run_stream
from tinyvit.data.made_views import make_views
from tinyvit.pages import render
from tinyvit.progress import LogProgress
from tinyvit.store_facts import best_classes, stored_augment
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
        # In a process of its own: Prefect's threads draw from the generators that a view is made with.
        views=list(run_stream(_ShownViews(index_shards(data, LogProgress()), store.location), workers=1)),
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
    return {"source": _data_uri(buffer.getvalue(), "svg+xml"), "text": text}


@dataclass(frozen=True)
class _ShownViews:
    """The first views of a store that have an answer, each of another epoch, as the page shows them."""

    index: ShardIndex
    location: str

    def read(self, worker: int, workers: int) -> Iterator[dict[str, Any]]:
        """All of them, by the first worker."""
        if worker:
            return
        store, shard = LogitStore.open(self.location), self.index.shard(0)
        augment, size = stored_augment(store), int(store.spec.teacher["input_size"])
        names = store.class_names
        shown = 0
        for slot in range(shard.samples):
            epoch = slot % store.spec.epochs
            rows = store.read(epoch, 0)
            if not rows.valid[slot]:
                continue
            made = make_views(shard, [slot], rows.seed, augment, size)
            yield {
                "key": made.samples[slot].key,
                "epoch": epoch,
                "seed": int(rows.seed[slot]),
                "source": _data_uri(_png(Image.fromarray(made.whole()[slot])), "png"),
                "classes": [
                    {"share": f"{100 * p:.1f} %", "name": names[int(c)] if names else f"class {c}"}
                    for c, p in best_classes(rows, slot)[:5]
                ],
            }
            shown += 1
            if shown == SHOWN_VIEWS:
                return


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
