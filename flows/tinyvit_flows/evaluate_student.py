"""Judging students as a flow: each network by itself -> one scorecard. Its artifacts: the table, a link to the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.task_runners import ThreadPoolTaskRunner

from tinyvit.data.loader import default_workers
from tinyvit.runtime.progress import default_progress
from tinyvit.transfer.page import write_page
from tinyvit.transfer.scorecard import Entry, figure_of, lines, parse_data, parse_measures, scorecard, told
from tinyvit.transfer.scorer import Scorer
from tinyvit_flows.tasks.evaluation import score_network
from tinyvit_flows.tasks.faults import plain_fault
from tinyvit_flows.tasks.work import result_of

RUNNER: Any = ThreadPoolTaskRunner(max_workers=1)
EXAMPLE = (
    "distilled=runs/few-labels-example/distilled/finetune",
    "labels=runs/few-labels-example/labels/labels",
)


@flow(name="evaluate-student", task_runner=RUNNER, log_prints=True)
@plain_fault
def evaluate_student(
    networks: list[str] | None = None,
    data: list[str] | None = None,
    sets: str | None = None,
    run_dir: str = "runs/scorecard",
    measures: list[str] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """What networks are worth on labelled data: top-1, linear probe, neighbours, few-shot, ImageNet's sets.

    Args:
        networks: NAME=CHECKPOINT each, of several seeds NAME=ONE,TWO; default: the example's students
        data: NAME=PLACE each, with train and val inside; default: the example's images
        sets: a folder of ImageNet's sets by their published names
        run_dir: features, figures and the page, and where a killed run goes on
        measures: some of top-1, linear, knn, few-shot; default: all
        seed: draws validation images and episodes
    """
    entries = [Entry.parse(text) for text in networks or EXAMPLE]
    places = parse_data(data or ([] if sets else ["fashion=examples/fashion-mnist"]))
    chosen, folder = parse_measures(measures or []), Path(run_dir)
    for checkpoint in dict.fromkeys(checkpoint for entry in entries for checkpoint in entry.checkpoints):
        result_of(score_network.submit(folder, seed, checkpoint, places, sets, chosen))
    scorer = Scorer.here(folder, seed, default_workers(), default_progress())
    found = scorecard(scorer, entries, places, sets, chosen)
    page = folder / "scorecard.html"
    write_page(page, found)
    create_table_artifact(table=_table(found), key="evaluate-student", description="Accuracy in percent")
    create_link_artifact(
        key="evaluate-student-page", link=page.resolve().as_uri(), link_text=str(page), description="The scorecard"
    )
    return found


def _table(found: dict[str, Any]) -> list[dict[str, str]]:
    return [
        {"data": data, "figure": name, **{row["name"]: told(figure_of(row, data, name)) for row in found["rows"]}}
        for data, name in lines(found)
    ]
