"""Whether labelling keeps up with its teacher on a GPU: beside the forward pass of views that lie there already."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from benchmarks.gpu.jobs import Clock, Figures
from benchmarks.gpu.report import Note, Row
from benchmarks.gpu.settings import LABELLING_TARGET, Settings
from benchmarks.keeping_up import ask, label_all, views_of
from benchmarks.training import Times
from tinyvit.data.index import index_shards
from tinyvit.labelling.label import open_for_labelling
from tinyvit.models.teachers import load_teacher
from tinyvit.runtime.gpu_lock import reserve_gpu
from tinyvit.runtime.progress import SilentProgress

COLUMNS = ("teacher", "views", "rounds", "bare, views/s", "labelling, views/s", "of bare", "target", "with its start")
ROUNDS = 3


def measure(settings: Settings, _figures: Figures, clock: Clock) -> Iterator[Row | Note]:
    """Rounds of both, in turn.

    Labelling takes hours, and its data processes begin once: what counts is its rate from the first batch to the last.
    """
    recipe = settings.recipe(settings.students[0], 2)
    teacher = load_teacher(settings.teacher, reserve_gpu(), None, settings.size)
    index = index_shards(recipe.data.train, SilentProgress())
    asked_of = open_for_labelling(recipe, settings.folder / "asked", teacher, index)
    views = views_of(recipe, asked_of, teacher, settings.beside)
    count = sum(len(batch) for batch in views)
    ask(teacher, views[:1])
    rates: dict[str, list[float]] = {"bare": [], "labelling": [], "whole": []}
    took = 0.0
    for number in range(ROUNDS):
        if number and not clock.allows(took):
            break
        began = time.perf_counter()
        ask(teacher, views)
        asked = time.perf_counter()
        rates["bare"].append(count / (asked - began))
        store = open_for_labelling(recipe, settings.folder / f"labelled-{number}", teacher, index)
        began_labelling, times = time.perf_counter(), Times()
        label_all(recipe, store, teacher, settings.beside, times)
        ended = time.perf_counter()
        rates["labelling"].append(times.rate)
        rates["whole"].append(count / (ended - began_labelling))
        took = ended - began
    middle = {name: statistics.median(values) for name, values in rates.items()}
    ratio, whole = middle["labelling"] / middle["bare"], middle["whole"] / middle["bare"]
    yield Row(
        "labelling",
        (settings.teacher, f"{count:,}", f"{len(rates['bare'])}", f"{middle['bare']:,.0f}",
         f"{middle['labelling']:,.0f}", f"{ratio:.3f}", f"{LABELLING_TARGET}", f"{whole:.3f}"),
        {
            "teacher": settings.teacher,
            "views": count,
            "workers": settings.beside,
            "rates": rates,
            "bare_views_per_s": middle["bare"],
            "label_views_per_s": middle["labelling"],
            "ratio_to_bare": ratio,
            "target": LABELLING_TARGET,
            "ratio_with_start": whole,
        },
    )  # fmt: skip
