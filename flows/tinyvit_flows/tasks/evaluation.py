"""Task of evaluate-student: measure a network."""

from __future__ import annotations

from pathlib import Path

from tinyvit.data.loader import default_workers
from tinyvit.runtime.progress import default_progress
from tinyvit.transfer.scorecard import score_all
from tinyvit.transfer.scorer import Scorer
from tinyvit_flows.tasks.work import GPU_TAG, work


@work("score network", run_name="score {checkpoint}", tags=[GPU_TAG])
def score_network(
    run_dir: Path, seed: int, checkpoint: str, data: dict[str, str], sets: str | None, measures: tuple[str, ...]
) -> None:
    """Measure all of one network, or what a lost try has left; the folder keeps it."""
    score_all(Scorer.here(run_dir, seed, default_workers(), default_progress()), checkpoint, data, sets, measures)
