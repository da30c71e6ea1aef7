"""kill -9 at random moments of labelling: what was committed stays sound, and the end is as if nothing had been."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from support import command, label_all, left_running, marked_environment, small_arguments
from toy import assert_equal_stores

from logitstore import LogitStore, verify
from tinyvit.config import load_recipe
from tinyvit.data.location import resolve_data
from tinyvit.models.teachers import Teacher

# Sixteen short units: a kill falls between two of them, or into one, rather than into the start.
MANY_UNITS = ("label.epochs=8", "label.epochs_per_unit=1")


def test_kills_at_random_moments(
    small_data: Path, teacher: Teacher, tmp_path: Path, long: bool, tell: Callable[[str], None]
) -> None:
    recipe = resolve_data(load_recipe("example", ["label.input_size=32", *MANY_UNITS]), small_data)
    whole = label_all(recipe, tmp_path / "whole", teacher)
    path, rng = tmp_path / "s", random.Random(0)
    arguments = command("label", "example", "--store", path, "--workers", "1", *small_arguments(small_data),
                        *(part for change in MANY_UNITS for part in ("--set", change)))  # fmt: skip
    kills, finished = 0, 0
    found: Counter[str] = Counter()
    while kills < (50 if long else 3) or not finished:
        process = subprocess.Popen(
            arguments, env=marked_environment(str(path)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        if kills < (50 if long else 3) and struck(process, path, rng):
            kills += 1
            found[state(path)] += 1
            continue
        assert process.wait() == 0
        assert_equal_stores(LogitStore.open(path), whole)
        assert LogitStore.open(path).sealed
        assert not list(path.rglob("*.partial")), "temporary files after sealing"
        finished += 1
        shutil.rmtree(path)
    assert left_running(str(path)) == []
    for what, count in sorted(found.items()):
        tell(f"kill -9: {count:>3} x {what}")
    tell(f"kills: {kills}; stores finished after them: {finished}, each equal to the undisturbed one, no leftovers")


def struck(process: subprocess.Popen[bytes], path: Path, rng: random.Random) -> bool:
    """Kill at a random moment: any, or after a file has begun to be written. False when it was done before."""
    if rng.random() < 0.5:
        before = sum(1 for _ in path.rglob("*")) if path.exists() else 0
        while process.poll() is None and (sum(1 for _ in path.rglob("*")) if path.exists() else 0) == before:
            time.sleep(0.001)
        pause = rng.uniform(0, 0.02)
    else:
        pause = rng.uniform(0, 12)
    try:
        process.wait(pause)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False


def state(path: Path) -> str:
    """What a kill left; fails the test for a committed unit that is not sound."""
    if not LogitStore.exists(path):
        return "before the store was there"
    store = LogitStore.open(path)
    assert not store.faults()
    assert not any(faults for _, faults in verify(store))
    missing = len(store.missing())
    torn = ", a temporary file left" if list(path.rglob("*.partial")) else ""
    return f"{'all' if not missing else 'some' if missing < len(store.units()) else 'no'} units committed{torn}"
