"""Several runs on one store: they share the work, and what comes out is what one run makes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from support import MANY_UNITS, command, small_arguments, tinyvit, wait_until
from toy import assert_equal_stores

from logitstore import LogitStore
from tinyvit.errors import UserError
from tinyvit.labelling.label import Slice


def arguments(path: Path, data: Path) -> list[str]:
    changes = [part for change in MANY_UNITS for part in ("--set", change)]
    return ["label", "example", "--store", str(path), "--workers", "1", "--json", *small_arguments(data), *changes]


def start(path: Path, data: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments(path, data)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def units_labelled(run: subprocess.Popen[str]) -> int:
    out, _ = run.communicate(timeout=300)
    assert run.returncode == 0
    document = json.loads(out)
    # Whoever ends, ends with a store that is ready.
    assert document["sealed"]
    return int(document["units_labelled_now"])


def test_three_runs_started_together_do_each_unit_once(whole: LogitStore, small_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "s"
    counts = [units_labelled(run) for run in [start(path, small_data) for _ in range(3)]]
    assert sum(counts) == 16
    assert_equal_stores(LogitStore.open(path), whole)
    assert not list(path.rglob("*.partial"))


def test_the_others_do_what_a_killed_run_leaves(whole: LogitStore, small_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "s"
    first, *others = [start(path, small_data) for _ in range(3)]
    wait_until(lambda: any((path / "committed" / "c").rglob("*")), first)
    first.kill()
    first.wait()
    # What the killed one had committed was not done again.
    assert sum(units_labelled(run) for run in others) <= 16
    assert_equal_stores(LogitStore.open(path), whole)


def test_slices_are_done_one_by_one_and_the_last_one_seals(whole: LogitStore, small_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "s"
    for number, missing in ((2, 8), (1, 0)):
        done = tinyvit(*arguments(path, small_data), "--slice", f"{number}/2")
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        assert (document["units_labelled_now"], document["units_missing"]) == (8, missing)
        assert bool(document["sealed"]) == (missing == 0)
    assert_equal_stores(LogitStore.open(path), whole)


@pytest.mark.parametrize("text", ["3", "0/2", "3/2", "a/b", "-1/2", "1/2/3"])
def test_what_is_no_slice_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="give two numbers such as 3/8"):
        Slice.parse(text)
