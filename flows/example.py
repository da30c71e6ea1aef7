"""`make run`: both flows on the example, and the same student trained without the teacher, side by side.

Uses Prefect's embedded server, whatever server prefect.toml names: the example needs nothing that runs already.
"""

from __future__ import annotations

import json
import sys
import time
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

from flows.distill_student import distill_student
from flows.teacher_logits import teacher_logits
from storage import write_whole
from tinyvit.config import load_recipe
from tinyvit.inspection.run_page import write_run_page
from tinyvit.progress import default_progress

HOME = Path("runs/example")
LEAD = (
    "An ImageNet teacher looked once at a few augmented views of 2,000 images of Fashion-MNIST. A small TinyViT "
    "learned its stored answers without any label, then the labels; its twin learned the labels only, for "
    "as many steps as the other's fine-tuning."
)


def run_example() -> dict[str, Any]:
    """Label, distil and fine-tune, train the twin; returns the summary that is also written."""
    began = time.monotonic()
    labelled = teacher_logits(run_dir=str(HOME))
    distilled = distill_student(store=labelled["store"], run_dir=str(HOME / "distilled"))
    scratch = distill_student(run_dir=str(HOME / "scratch"), stages=["finetune"])
    summary = {
        "units": labelled["units"],
        "units_labelled_now": labelled["units_labelled_now"],
        "rows": labelled["rows"],
        "bytes_per_row": labelled["bytes_per_row"],
        "label_views_per_s": labelled["views_per_s"],
        "distill_images_per_s": round(distilled["distill"]["images_per_s"], 1),
        "finetune_images_per_s": round(distilled["finetune"]["images_per_s"], 1),
        "scratch_images_per_s": round(scratch["finetune"]["images_per_s"], 1),
        "distilled_top1": round(distilled["finetune"]["val"]["top1"], 2),
        "scratch_top1": round(scratch["finetune"]["val"]["top1"], 2),
        "store": labelled["store"],
        "checkpoint": distilled["finetune"]["checkpoint"],
        "scratch_checkpoint": scratch["finetune"]["checkpoint"],
        "report": str(HOME / "report.html"),
        "seconds": round(time.monotonic() - began, 1),
    }
    write_whole(HOME / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    return summary


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
        ("stage 2, fine-tuning on labels", f"{summary['finetune_images_per_s']:,.0f} images/s"),
        ("twin from scratch, on labels", f"{summary['scratch_images_per_s']:,.0f} images/s"),
        ("top-1 of the distilled student", f"{summary['distilled_top1']:.1f} %"),
        ("top-1 of its twin from scratch", f"{summary['scratch_top1']:.1f} %"),
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
            "from scratch": Path(summary["scratch_checkpoint"]),
        },
        store=summary["store"],
        data=load_recipe("example").data.train,
        views=2000,
        seed=0,
        progress=default_progress(),
        title="Example run",
        lead=LEAD,
        figures=figures(summary),
        places=places(summary),
    )
    table = Table(show_header=False, title="Example run", title_justify="left")
    for name, value in figures(summary) + places(summary):
        table.add_row(name, value)
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
