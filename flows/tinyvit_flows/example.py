"""`make run`: both flows on the example, and the same student trained on labels alone for as many steps, side by side.

Uses Prefect's embedded server, whatever server prefect.toml names: the example needs nothing that runs already.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prefect.exceptions import FailedRun
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
    PREFECT_SERVER_LOGGING_LEVEL,
    temporary_settings,
)
from rich.console import Console
from rich.table import Table

from logitstore import write_whole
from tinyvit.config import load_recipe
from tinyvit.reports.run_page import write_run_page
from tinyvit.runtime.progress import default_progress
from tinyvit.training.metric_logger import METRICS, read_lines
from tinyvit_flows.distill_student import distill_student
from tinyvit_flows.teacher_logits import teacher_logits

TEACHING, RECIPE = "few-labels-example-teacher", "few-labels-example"
HOME = Path(f"runs/{RECIPE}")
LEAD = (
    "Of 2,000 images of Fashion-MNIST 250 are labelled. A teacher with ImageNet weights was fine-tuned on these and "
    "looked once at a few augmented views of all. A small TinyViT learned its stored logits, then the labels; its "
    "twin learned the labels only, for as many steps."
)


def run_example() -> dict[str, Any]:
    """Fine-tune the teacher, label, distil and fine-tune, train the twin; returns the summary that is also written."""
    began = time.monotonic()
    teacher = distill_student(TEACHING, run_dir=str(HOME / "teacher"))
    labelled = teacher_logits(RECIPE, run_dir=str(HOME))
    store, folders = labelled["store"], {name: HOME / name for name in ("distilled", "labels")}
    distilled = distill_student(RECIPE, store=store, run_dir=str(folders["distilled"]), stages=["distill", "finetune"])
    labels = distill_student(RECIPE, run_dir=str(folders["labels"]), stages=["labels"])
    summary = {
        "units": labelled["units"],
        "units_labelled_now": labelled["units_labelled_now"],
        "rows": labelled["rows"],
        "bytes_per_row": labelled["bytes_per_row"],
        "label_views_per_s": labelled["views_per_s"],
        "distill_images_per_s": round(distilled["distill"]["images_per_s"], 1),
        "labels_images_per_s": round(labels["labels"]["images_per_s"], 1),
        "distilled_steps": _steps(folders["distilled"], distilled),
        "labels_steps": _steps(folders["labels"], labels),
        "teacher_top1": round(teacher["finetune"]["val"]["top1"], 2),
        "distilled_top1": round(distilled["finetune"]["val"]["top1"], 2),
        "labels_top1": round(labels["labels"]["val"]["top1"], 2),
        "store": store,
        "checkpoint": distilled["finetune"]["checkpoint"],
        "labels_checkpoint": labels["labels"]["checkpoint"],
        "report": str(HOME / "report.html"),
        "seconds": round(time.monotonic() - began, 1),
    }
    write_whole(HOME / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    return summary


def _steps(folder: Path, stages: Iterable[str]) -> int:
    """How many steps a student took in all."""
    return sum(read_lines(folder / stage / METRICS)[-1]["step"] for stage in stages)


def figures(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The lines of the closing table: what, and how much."""
    now = summary["units_labelled_now"]
    speed = f"{summary['label_views_per_s']:,.0f} views/s" if now else "nothing to label, the store was there"
    return [
        ("units in the store", f"{summary['units']} ({now} labelled now)"),
        ("rows in the store", f"{summary['rows']:,}"),
        ("bytes a row, everything included", f"{summary['bytes_per_row']:.1f}"),
        ("stage 1, labelling with the teacher", speed),
        ("stage 2, distilling from the store", f"{summary['distill_images_per_s']:,.0f} images/s"),
        ("its twin, on labels", f"{summary['labels_images_per_s']:,.0f} images/s"),
        ("steps of the distilled student", f"{summary['distilled_steps']:,}"),
        ("steps of its twin on labels alone", f"{summary['labels_steps']:,}"),
        ("top-1 of the distilled student", f"{summary['distilled_top1']:.1f} %"),
        ("top-1 of its twin on labels alone", f"{summary['labels_top1']:.1f} %"),
        ("top-1 of the teacher", f"{summary['teacher_top1']:.1f} %"),
        ("seconds in all", f"{summary['seconds']:,.0f}"),
    ]


def places(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Where the results are."""
    return [
        ("store", summary["store"]),
        ("checkpoint", summary["checkpoint"]),
        ("report", summary["report"]),
        ("summary", str(HOME / "summary.json")),
    ]


def main() -> int:
    """Run the example and print the table. Exit code 2, with one line, where something has to be mended."""
    settings = {
        PREFECT_API_URL: None,
        PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: True,
        PREFECT_SERVER_LOGGING_LEVEL: "ERROR",
    }
    try:
        with temporary_settings(updates=settings):
            summary = run_example()
    except FailedRun as fault:
        print(f"make run: {fault}", file=sys.stderr)
        return 2
    write_run_page(
        path=Path(summary["report"]),
        stages={
            "distil": Path(summary["checkpoint"]).parent / "distill",
            "fine-tune": Path(summary["checkpoint"]),
            "labels alone": Path(summary["labels_checkpoint"]),
        },
        store=summary["store"],
        data=load_recipe(RECIPE).data.train,
        views=2000,
        seed=0,
        progress=default_progress(),
        title="Example run",
        lead=LEAD,
        figures=figures(summary),
        places=places(summary),
    )
    table = Table(show_header=False, title="Example run", title_justify="left")
    table.add_column()
    # A path that was cut short is of no use.
    table.add_column(overflow="fold")
    for name, value in figures(summary) + places(summary):
        table.add_row(name, value)
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
