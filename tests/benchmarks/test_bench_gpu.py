"""The script of all that takes a GPU, on a CPU and small: every section is there, and no fault ends the others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from support import ROOT

from benchmarks.gpu import jobs
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.jobs import Clock, Job
from benchmarks.gpu.report import Note, Report, Row, Section, new_file
from benchmarks.gpu.settings import tiny

SECTIONS = ["data", "training", "loader", "live", "labelling", "checks"]


def run(out: Path, *arguments: str) -> tuple[str, dict[str, Any]]:
    """The results of the script, as it is started: the file, and the figures."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--out", str(out), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    file = Path(done.stdout.strip())
    return file.read_text(), json.loads(file.with_suffix(".json").read_text())


def test_every_section_is_measured_within_its_time(tmp_path: Path) -> None:
    began = time.monotonic()
    text, found = run(tmp_path, "--minutes", "4")
    assert time.monotonic() - began < 240
    assert list(found["figures"]) == SECTIONS
    assert text.count("\n## ") == len(SECTIONS)
    for section, rows in found["figures"].items():
        assert rows, found["notes"][section]
        figures = [(name, value) for row in rows for name, value in row.items() if isinstance(value, int | float)]
        assert all(value > 0 for name, value in figures if name not in ("waiting", "workers")), section
    ways = {row["step"]: row["images_per_s"] for row in found["figures"]["training"]}
    assert list(ways) == ["ours", "timm's", "ours, compiled", "timm's, compiled"]
    assert {row["workers"] for row in found["figures"]["loader"]} == {0, 1}
    outcomes = {row["check"]: row["outcome"] for row in found["figures"]["checks"]}
    assert set(outcomes.values()) <= {"works", "not here"}, found["notes"]["checks"]
    assert outcomes["torchrun"] == outcomes["the code of several ranks"] == outcomes["SIGTERM and resume"] == "works"
    assert "left out for time" not in text


def test_a_section_that_fails_leaves_its_line_and_the_others_go_on(tmp_path: Path) -> None:
    nobody = ("--teacher", "python:benchmarks.gpu.teachers:nobody")
    text, found = run(tmp_path, "--only", "labelling", "--only", "training", *nobody)
    for section, name in (("live", "5m"), ("labelling", "labelling")):
        assert not found["figures"][section]
        (note,) = found["notes"][section]
        assert note["text"].startswith(f"{name}: UserError: the teacher {nobody[1]} cannot be made")
        assert "Traceback" in note["trace"]
        assert note["text"] in text
        assert "Traceback" not in text
    assert len(found["figures"]["training"]) == 4


def test_a_second_run_of_a_day_leaves_the_first_alone(tmp_path: Path) -> None:
    for name in ("x.md", "x_2.md", "x_3.md"):
        file = new_file(tmp_path, "x")
        assert file.name == name
        file.touch()


def test_a_section_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="no section 'live'; choose of training, loader, labelling, checks"):
        main(only=["labelling", "live"], out=tmp_path)
    assert not list(tmp_path.iterdir())


def row(cell: str) -> Row:
    return Row("only", (cell,), {"cell": cell})


def hangs(*_given: object) -> Iterator[Row | Note]:
    beside = subprocess.Popen(["sleep", "1000"])
    yield row(f"{beside.pid}")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(1000)


def dies(*_given: object) -> Iterator[Row | Note]:
    yield row("before it died")
    os.kill(os.getpid(), signal.SIGKILL)


def fails(*_given: object) -> Iterator[Row | Note]:
    yield row("before it failed")
    raise RuntimeError("one line\nand another")


def works(_settings: object, figures: dict[str, list[dict[str, Any]]], clock: Clock) -> Iterator[Row | Note]:
    yield row(f"{len(figures['only'])} before, {clock.allows(0.1)} {clock.allows(1000)}")


def test_what_hangs_dies_or_fails_ends_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "GRACE", 0.3)
    report = Report(new_file(tmp_path, "x"), ["# x"], {}, {"only": Section("Only", "About it.", ("cell",))})
    todo = [Job("only", work.__name__, 1, work) for work in (hangs, dies, fails, works)]
    began = time.monotonic()
    jobs.run_jobs(todo, tiny(tmp_path), report, seconds=8)
    assert 2 < time.monotonic() - began < 4
    pid, *cells = [figures["cell"] for figures in report.figures["only"]]
    assert cells == ["before it died", "before it failed", "3 before, True False"]
    assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]
    lines = [line for line in report.file.read_text().splitlines() if line.startswith("- ")]
    assert lines == [
        "- hangs: ended after its 2 s; what it had found by then stands above",
        "- dies: its process ended by SIGKILL",
        "- fails: RuntimeError: one line",
    ]
    jobs.run_jobs(todo[-1:], tiny(tmp_path), report, seconds=0)
    assert "- works: left out for time\n" in report.file.read_text()
