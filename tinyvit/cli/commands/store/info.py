"""`tinyvit store info`: a store at a glance."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from logitstore import LogitStore, StoreError
from tinyvit.cli.options import AsJson
from tinyvit.labelling.describe import describe
from tinyvit.reports import statistics
from tinyvit.reports.labels import label_rows, shards_of
from tinyvit.reports.sampled_rows import sample_rows
from tinyvit.runtime.progress import default_progress

# Rows that the figures are of, unless the store has fewer.
LOOKED_AT = 5000
# Blocks of epochs that have a line each; of more the first and the last.
SHOWN_BLOCKS = 12
BAR = 24


def info(
    store: Annotated[str, typer.Argument(help="a logit store: a folder, or a URL such as s3://bucket/store")],
    data: Annotated[
        str | None, typer.Option(help="the shards: then also how the teacher agrees with the labels")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What a store is a record of, how complete it is, what it weighs, and what was said on the whole.

    What was said is reckoned from up to 5,000 rows drawn at random.
    """
    opened = LogitStore.open(store)
    facts: dict[str, Any] = {**describe(opened), "answers": _sampled(opened, data)}
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    console = Console()
    for title, lines in _sections(facts):
        table = Table(title=title, title_justify="left", show_header=False, box=None)
        for name, value in lines:
            table.add_row(name, escape(value))
        console.print(table, "")


def _sampled(store: LogitStore, data: str | None) -> dict[str, Any] | None:
    """Figures of some rows; None where there are none, or where they cannot be read, which `store verify` explains."""
    index = shards_of(store, data, default_progress()) if data else None
    try:
        sampled = sample_rows(store, LOOKED_AT, 0, default_progress())
    except StoreError:
        return None
    count = {"rows_drawn": sampled.drawn, "rows_without_answer": sampled.drawn - len(sampled)}
    if not len(sampled):
        return count if sampled.drawn else None
    labelled = label_rows(sampled, store, index, default_progress())
    agreement = statistics.agreement(labelled.sampled)
    return {
        **count,
        "mean_kept_mass": float(statistics.kept_mass(sampled)[:, -1].mean()),
        "mean_confidence": float(sampled.confidence.mean()),
        "mean_entropy": float(statistics.entropy(sampled).mean()),
        "labels": labelled.note,
        "agreement": vars(agreement) if agreement else None,
    }


def _reading(decode: dict[str, Any]) -> str:
    """How the store's images were read."""
    return ", ".join(f"{name} {value}" for name, value in decode.items()) or "read by the rules of an earlier release"


def _sections(facts: dict[str, Any]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    teacher, said = facts["teacher"], facts["answers"]
    sealed = f"sealed {facts['sealed']}" if facts["sealed"] != "no" else "not sealed"
    there = facts["units"] - facts["units_missing"]
    yield (
        "Record",
        [
            ("data", f"{facts['data']}: {facts['images']:,} images in {facts['shards']:,} shards"),
            ("views", f"{facts['epochs']} of each image, {facts['epochs_per_unit']} epochs a unit"),
            ("teacher", f"{teacher['name']} at {teacher.get('input_size', '?')} pixels"),
            ("its weights", f"sha256 {teacher.get('weights_sha256', 'unknown')}"),
            ("kept", f"{facts['top_k']} of {facts['classes']:,} classes ({facts['selection']}), {facts['encoding']}"),
            ("images", _reading(facts["decode"])),
            ("augmentation", ", ".join(f"{name} {value}" for name, value in facts["augment"].items())),
            ("run seed", str(facts["run_seed"])),
            ("libraries", ", ".join(f"{name} {version}" for name, version in facts["libraries"].items())),
            ("made", facts["created"]),
        ],
    )
    rate = facts["rows_per_s_when_written"]
    lines = [("units", f"{there:,} of {facts['units']:,}, {sealed}"), ("rows", f"{facts['rows']:,}")]
    if rate:
        lines.append(("written at", f"{rate:,.0f} rows/s, from the first commit to the last"))
    yield "Progress", [*lines, *_blocks(facts["progress"])]
    if facts["bytes"]:
        yield (
            "Bytes",
            [
                ("all", f"{facts['bytes']:,}, {facts['bytes_per_row']:.1f} a row"),
                *((name, f"{size:,}, {size / facts['rows']:.2f} a row") for name, size in facts["bytes_of"].items()),
            ]
            if facts["rows"]
            else [("all", f"{facts['bytes']:,}")],
        )
    if said is None:
        yield "What the teacher said", [("", "no row can be read; `tinyvit store verify` says why, if there are some")]
        return
    if said["rows_drawn"] == said["rows_without_answer"]:
        why = "their images were broken, or what the teacher said was not finite"
        yield "What the teacher said", [("", f"nothing: none of {said['rows_drawn']:,} rows is valid ({why})")]
        return
    agreed = said["agreement"]
    yield (
        f"What the teacher said, by {said['rows_drawn']:,} rows"
        + (" drawn at random" if said["rows_drawn"] < facts["rows"] else ""),
        [
            ("kept mass", f"{100 * said['mean_kept_mass']:.2f} % on average"),
            ("best class", f"{100 * said['mean_confidence']:.1f} % sure on average"),
            ("entropy", f"{said['mean_entropy']:.3f} nat on average"),
            ("without logits", f"{said['rows_without_answer']:,}"),
            ("labels", f"top-1 {agreed['top1']:.1f} %, top-5 {agreed['top5']:.1f} %" if agreed else said["labels"]),
        ],
    )


def _blocks(progress: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """A bar for each block of epochs."""
    half = SHOWN_BLOCKS // 2
    for number, block in enumerate(progress):
        if len(progress) > SHOWN_BLOCKS and half <= number < len(progress) - half:
            if number == half:
                yield f"... {len(progress) - SHOWN_BLOCKS} more", ""
            continue
        done = block["units_there"] * BAR // block["units"]
        bar = "█" * done + "░" * (BAR - done)
        yield f"epochs {block['epochs']}", f"{bar} {block['units_there']:,} of {block['units']:,}"
