"""`tinyvit plan --measure` beside the run that it foretells: the example, labelled whole."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from logitstore import LogitStore
from tinyvit.config import load_recipe
from tinyvit.data.index import index_shards
from tinyvit.data.loader import default_workers
from tinyvit.labelling import plan as planning
from tinyvit.labelling.label import label_store
from tinyvit.models.teachers import load_teacher
from tinyvit.runtime.gpu_lock import reserve_gpu
from tinyvit.runtime.progress import Progress

# A minute is more than the example takes.
PILOT_SECONDS = 10


def measure(folder: Path, progress: Progress) -> dict[str, Any]:
    """Seconds and bytes that a pilot foretells, and those that labelling then takes."""
    recipe = load_recipe("example")
    teacher = load_teacher(recipe.label.teacher, reserve_gpu(), recipe.label.classes)
    index = index_shards(recipe.data.train, progress)
    pilot = planning.measure(recipe, teacher, index, default_workers(), PILOT_SECONDS, progress)
    work = planning.Work(sum(index.counts), len(index), teacher.num_classes)
    foretold = planning.plan(recipe.label, work, 1, None, pilot)
    began = time.perf_counter()
    label_store(recipe, folder / "foretold", teacher, default_workers(), progress)
    seconds = time.perf_counter() - began
    made = LogitStore.open(folder / "foretold")
    size = sum(made.stored_bytes(made.units()).values())
    return {
        "foretold_seconds": (foretold.wall_hours or 0) * 3600,
        "seconds": seconds,
        "foretold_bytes": foretold.bytes,
        "bytes": size,
    }
