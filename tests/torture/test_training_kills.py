"""kill -9 at random steps of training in deterministic mode: what goes on after it ends in the same bits."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from support import command, small_arguments, tinyvit, wait_until

from logitstore import LogitStore
from tinyvit.models import load_weights
from tinyvit.training.folder import read_epochs
from tinyvit.training.metric_logger import METRICS, read_lines

STAGES = ("distill", "finetune")
# Two epochs of ten steps each.
STEPS = 20
# What a repetition does not repeat.
MEASURED = ("images_per_s", "waiting_for_data", "memory_mib", "val")


def has_come_to(metrics: Path, lines: int) -> bool:
    return len(read_lines(metrics)) >= lines


def test_kills_at_random_steps(
    small_store: LogitStore, small_data: Path, tmp_path: Path, long: bool, tell: Callable[[str], None]
) -> None:
    rng = random.Random(0)
    settings = [*small_arguments(small_data), "--store", small_store.location]
    for change in ("engine.deterministic=true", "engine.log_steps=1", "student.kwargs.drop_path_rate=0.2"):
        settings += ["--set", change]
    whole = tinyvit("train", "example", "--run-dir", tmp_path / "whole", "--workers", "1", *settings)
    assert whole.returncode == 0, whole.stderr
    run = tmp_path / "run"
    for _ in range(20 if long else 1):
        stage, step, minutes, workers = (
            rng.choice(STAGES),
            rng.randrange(1, STEPS),
            rng.choice((0, 10)),
            rng.choice("012"),
        )
        arguments = ["train", "example", "--run-dir", run, *settings, "--set", f"engine.save_minutes={minutes}"]
        process = subprocess.Popen(
            command(*arguments, "--workers", "1"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(partial(has_come_to, run / stage / METRICS, step), process)
        process.kill()
        process.wait()
        assert not (run / stage / "result.json").exists(), "the kill came too late to prove anything"
        saved = state(run / stage)
        done = tinyvit(*arguments, "--workers", workers)
        assert done.returncode == 0, done.stderr
        for name in STAGES:
            assert_same(tmp_path / "whole" / name, run / name)
        shutil.rmtree(run)
        tell(f"kill -9 in {stage}, step {step} or after; {saved}; gone on with {workers} data processes: equal bits")


def state(folder: Path) -> str:
    """Where a killed stage goes on."""
    if not (folder / "state.pt").exists():
        return "no state saved"
    saved = torch.load(folder / "state.pt", weights_only=True)
    return f"saved after epoch {saved['epoch']} and {saved['step']} steps"


def assert_same(one: Path, two: Path) -> None:
    """Two folders of a finished stage hold the same weights and tell the same of every epoch."""
    first, second = load_weights(one), load_weights(two)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [told(metrics) for metrics in read_epochs(one)] == [told(metrics) for metrics in read_epochs(two)]


def told(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if name not in MEASURED}
