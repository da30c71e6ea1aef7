"""`tinyvit store show`: what the teacher said about single views."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image
from rich.color import Color
from rich.console import Console
from rich.markup import escape
from rich.style import Style
from rich.table import Table
from rich.text import Text

from logitstore import LogitStore, write_whole
from tinyvit.cli.options import AsJson
from tinyvit.data.index import ShardIndex
from tinyvit.errors import UserError
from tinyvit.labelling.describe import best_classes, sample_of_key
from tinyvit.reports.labels import label_rows, shards_of
from tinyvit.reports.sampled_rows import SampledRows, sample_rows
from tinyvit.runtime.progress import default_progress

# Columns of a terminal that an image takes; two of its rows are one of the terminal's.
IMAGE = 28
# Rows among which those that a filter wants are looked for.
SEARCHED = 50_000


def show(
    store: Annotated[str, typer.Argument(help="a logit store: a folder, or a URL such as s3://bucket/store")],
    key: Annotated[str | None, typer.Option(help="one sample, in the epochs from --epoch on; not with --shard")] = None,
    epoch: Annotated[int, typer.Option(min=0, help="which view of the images")] = 0,
    shard: Annotated[int, typer.Option(min=0, help="which shard, by number")] = 0,
    slot: Annotated[int, typer.Option(min=0, help="the first sample")] = 0,
    count: Annotated[int, typer.Option(min=1, help="how many views")] = 3,
    top: Annotated[int, typer.Option(min=1, help="how many classes of each")] = 5,
    data: Annotated[str | None, typer.Option(help="the shards: for --label, --wrong and the images")] = None,
    label: Annotated[
        str | None, typer.Option(help="only views of this class: a label's number or a part of its name")
    ] = None,
    wrong: Annotated[
        bool, typer.Option("--wrong", help="only views whose label is not the teacher's best class")
    ] = False,
    low_mass: Annotated[
        float | None, typer.Option(min=0, max=1, help="only views whose kept classes hold less")
    ] = None,
    images: Annotated[bool, typer.Option("--pictures", help="draw each view in the terminal")] = False,
    png: Annotated[Path | None, typer.Option(help="write the views side by side into this file")] = None,
    as_json: AsJson = False,
) -> None:
    """What the teacher said about some views of one shard, about one sample, or about those that a filter finds.

    Filters look through 50,000 rows drawn at random.
    """
    opened, filtering = LogitStore.open(store), bool(label or wrong or low_mass is not None)
    if data is None and (label or wrong or images or png):
        raise UserError("--label, --wrong, --pictures and --png need the images: give their shards with --data")
    if (key is not None and (shard or slot or filtering)) or (filtering and (shard or slot or epoch)):
        raise UserError("give --key, or --shard and --slot, or filters")
    index = shards_of(opened, data, default_progress()) if data else None
    if filtering:
        chosen = _found(opened, index, label, wrong, low_mass)[:count]
    else:
        chosen = _asked(opened, key, epoch, shard, slot, count)
    views = [_view(opened, *place, top) for place in chosen]
    made = _images(opened, index, chosen) if index and (images or png) else []
    if png:
        _write_png(png, made)
    if as_json:
        # The shard of all, where all are of one.
        shards = {view["shard"] for view in views}
        about = {"epoch": epoch, "shard": shards.pop() if len(shards) == 1 else None}
        typer.echo(json.dumps({**about, "views": views}, indent=2))
        return
    console = Console()
    for number, view in enumerate(views):
        title = f"{view['key'] or ''} {view['shard']}, slot {view['slot']}, epoch {view['epoch']}, seed {view['seed']}"
        table = _table(view, escape(title.strip()))
        if images and made[number] is not None:
            grid = Table.grid(padding=(0, 2))
            grid.add_row(_drawn(made[number]), table)
            console.print(grid)
        else:
            console.print(table)
    if not views:
        console.print("no such view among the rows that were looked at")


def _asked(
    store: LogitStore, key: str | None, epoch: int, shard: int, slot: int, count: int
) -> list[tuple[int, int, int]]:
    """(epoch, shard, slot) by number or by key."""
    if key is not None:
        shard, slot = sample_of_key(store, key)
    if epoch >= store.spec.epochs or shard >= len(store.samples):
        raise UserError(f"the store has epochs 0..{store.spec.epochs - 1} and shards 0..{len(store.samples) - 1}")
    if slot >= store.samples[shard]:
        raise UserError(f"shard {shard} has slots 0..{store.samples[shard] - 1}")
    if key is not None:
        return [(e, shard, slot) for e in range(epoch, min(epoch + count, store.spec.epochs))]
    return [(epoch, shard, s) for s in range(slot, min(slot + count, store.samples[shard]))]


def _found(
    store: LogitStore, index: ShardIndex | None, label: str | None, wrong: bool, low_mass: float | None
) -> list[tuple[int, int, int]]:
    """(epoch, shard, slot) of the views that the filters want, in no particular order."""
    sampled = sample_rows(store, SEARCHED, 0, default_progress())
    if low_mass is not None:
        sampled = sampled[sampled.probability.sum(axis=1) < low_mass]
    if index is not None and (label or wrong):
        labelled = label_rows(sampled, store, index, default_progress())
        sampled = labelled.sampled.labelled
        if not len(sampled):
            raise UserError(f"--label and --wrong cannot be answered: {labelled.note}")
        if label:
            sampled = sampled[_of_class(sampled, label, store.class_names)]
        if wrong:
            sampled = sampled[sampled.best != sampled.label]
    return list(zip(sampled.epoch.tolist(), sampled.shard.tolist(), sampled.slot.tolist(), strict=True))


def _of_class(sampled: SampledRows, label: str, names: Sequence[str] | None) -> Any:
    if label.isdecimal():
        return sampled.label == int(label)
    ids = [number for number, name in enumerate(names or []) if label.lower() in name.lower()]
    if not ids:
        raise UserError(f"no class of the teacher is called {label!r}; give its number")
    return np.isin(sampled.label, ids)


def _view(store: LogitStore, epoch: int, shard: int, slot: int, top: int) -> dict[str, Any]:
    rows, keys, names = store.read(epoch, shard), store.keys(shard), store.class_names
    place = {
        "epoch": epoch,
        "shard": store.shard_names[shard],
        "slot": slot,
        "key": keys[slot] if keys else None,
        "seed": int(rows.seed[slot]),
        "valid": bool(rows.valid[slot]),
    }
    if not rows.valid[slot]:
        return {**place, "classes": [], "residual": None}
    best = best_classes(rows, slot)
    return {
        **place,
        "classes": [{"id": c, "name": names[c] if names else str(c), "probability": p} for c, p in best[:top]],
        "kept": sum(p for _, p in best),
        "residual": float(rows.residual[slot]),
    }


def _table(view: dict[str, Any], title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    if not view["valid"]:
        table.add_row("no logits: the image could not be decoded, or the teacher's logits were not finite")
        return table
    for entry in view["classes"]:
        bar = "█" * max(1, round(30 * entry["probability"]))
        table.add_row(f"{100 * entry['probability']:5.1f} %", bar, str(entry["id"]), escape(entry["name"][:60]))
    table.add_row(f"{100 * view['residual']:5.1f} %", "", "", "outside the kept classes", style="dim")
    return table


def _images(store: LogitStore, index: ShardIndex, chosen: Sequence[tuple[int, int, int]]) -> list[Any]:
    """The pixels of each view; None where there is none."""
    from tinyvit.reports.images import ViewRef, remake

    shown = remake(store, index, [ViewRef(shard, slot, (epoch,)) for epoch, shard, slot in chosen], 1)
    return [image.views[0].pixels if image.views else None for image in shown]


def _drawn(pixels: Any) -> Text:
    """An image of half blocks, each two pixels one above the other."""
    small = np.asarray(Image.fromarray(pixels).resize((IMAGE, IMAGE), Image.Resampling.BOX))
    text = Text()
    for upper, lower in zip(small[::2], small[1::2], strict=True):
        for above, below in zip(upper.tolist(), lower.tolist(), strict=True):
            text.append("▀", Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below)))
        text.append("\n")
    return text


def _write_png(path: Path, made: Sequence[Any]) -> None:
    there = [pixels for pixels in made if pixels is not None]
    if not there:
        raise UserError("none of these views can be made, so there is no image to write")
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(there, axis=1)).save(buffer, "PNG")
    write_whole(path, buffer.getvalue())
