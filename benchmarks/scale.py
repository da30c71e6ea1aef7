"""`tinyvit bench scale`: labelling beside its bare teacher and its plan, a store of ImageNet-21k's size, Prefect.

Results of a run on this machine: benchmarks/results/scale_*.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import foretold, full_scale, keeping_up, prefect_tasks
from benchmarks.tables import file_table, terminal
from tinyvit.config import load_recipe
from tinyvit.labelling.plan import Work
from tinyvit.labelling.plan import plan as make_plan
from tinyvit.runtime.progress import Progress

# Two epochs of two shards of the example, each shard a unit, at the size of a teacher's input.
OVERRIDES = (
    "data.train=examples/fashion-mnist/train/train-{000000..000001}.tar",
    "label.input_size=224",
    "label.epochs=2",
    "label.epochs_per_unit=2",
    "label.batch_size=50",
)


def measure(folder: Path, bucket: str | None, overrides: list[str], progress: Progress) -> dict[str, Any]:
    """All of it, in `folder`, and the store also in a bucket."""
    recipe = load_recipe("example", [f"label.teacher={keeping_up.TEACHER}", *OVERRIDES, *overrides])
    found: dict[str, Any] = {"labelling": keeping_up.measure(recipe, folder, progress), "store": {}}
    found["plan"] = foretold.measure(folder, progress)
    for place, location in (("local", str(folder / "in21k")), ("bucket", bucket)):
        if location:
            full_scale.make(location, full_scale.IMAGES, full_scale.SHARDS, progress)
            found["store"][place] = full_scale.measure(location)
    work = Work(full_scale.IMAGES, full_scale.SHARDS, full_scale.CLASSES)
    tasks = make_plan(load_recipe("in22k-distill-21m").label, work, 8, 1500.0, None).prefect_tasks
    found["prefect"] = prefect_tasks.measure(recipe, folder / "0-1", tasks, folder)
    return found


def table(found: dict[str, Any]) -> Table:
    """For a terminal."""
    return terminal(("what", "how much"), _rows(found), _about(found))


def markdown(found: dict[str, Any]) -> str:
    """For a results file."""
    return f"\n{_about(found)}\n" + file_table(("what", "how much"), _rows(found))


def _about(found: dict[str, Any]) -> str:
    labelling = found["labelling"]
    return (
        f"Labelling {labelling['views']} views of {labelling['input_size']} pixels by {labelling['teacher']}; a store "
        f"of {full_scale.IMAGES:,} images x {full_scale.EPOCHS} epochs in {full_scale.SHARDS} shards."
    )


def _rows(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    labelling, prefect = found["labelling"], found["prefect"]
    yield "the bare teacher", f"{labelling['bare_views_per_s']:.1f} views/s"
    for count, rate in labelling["label_views_per_s"].items():
        ratio = labelling["ratio_to_bare"][count]
        yield f"labelling, {count} process{'es' * (count > 1)}", f"{rate:.1f} views/s, {ratio:.2f} of the bare teacher"
    plan = found["plan"]
    for what, unit in (("seconds", "s"), ("bytes", "bytes")):
        asked, took = plan[f"foretold_{what}"], plan[what]
        yield f"the example, {what}", f"{asked:,.0f} {unit} foretold, {took:,.0f} taken, {asked / took:.2f}"
    for place, operations in found["store"].items():
        for name, spent in operations.items():
            yield f"{name}, {place}", f"{spent['seconds']:.1f} s, {spent['mib']:.0f} MiB"
    yield "Prefect, tasks with nothing to do", f"{prefect['tasks']}"
    yield "their time", f"{prefect['seconds']:.0f} s, {prefect['milliseconds_a_task']:.0f} ms each"
    yield (
        "their part of the database",
        (f"{prefect['database_bytes'] / 2**20:.0f} MiB, {prefect['bytes_a_task'] / 1024:.1f} KiB each"),
    )
