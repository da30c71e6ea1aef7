"""The page about training runs: what it says is what was trained, and it opens in a real browser."""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from opened import Opened
from playwright.sync_api import Browser
from support import small_arguments, tinyvit

from logitstore import LogitStore
from tinyvit.data.index import index_shards
from tinyvit.errors import UserError
from tinyvit.models.teachers import Teacher
from tinyvit.reports.against_teacher import Against, compare
from tinyvit.reports.plot import plot
from tinyvit.reports.run_figures import confusion
from tinyvit.reports.run_page import write_run_page
from tinyvit.reports.sampled_rows import sample_rows
from tinyvit.reports.stages import StageRun, named, stage_folders
from tinyvit.runtime.progress import SilentProgress


@pytest.fixture(scope="module")
def run(small_data: Path, small_store: LogitStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short stages."""
    folder = tmp_path_factory.mktemp("runs") / "<b>$mine$"
    arguments = ["--store", small_store.location, "--run-dir", folder, "--workers", "0"]
    done = tinyvit("train", "example", *small_arguments(small_data), *arguments)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_student_with_the_teachers_weights_agrees_with_it(
    teacher: Teacher, small_store: LogitStore, small_data: Path
) -> None:
    student: Any = copy.deepcopy(teacher.model)
    student.pretrained_cfg = {**student.pretrained_cfg, "input_size": (3, 32, 32)}
    sampled = sample_rows(small_store, 60, 0, SilentProgress())
    index = index_shards(small_data / "train", SilentProgress())
    found = compare(student, sampled, small_store, index, SilentProgress())
    assert found is not None
    assert len(found.teacher) == 60
    assert found.agreement == found.among_five == 100
    assert found.confusions(5) == []
    # The same views at another size are other images to it.
    student.pretrained_cfg["input_size"] = (3, 64, 64)
    other = compare(student, sampled, small_store, index, SilentProgress())
    assert other is not None
    assert other.agreement < 90


def test_confusions_are_counted_by_pair() -> None:
    found = Against(np.array([7, 7, 7, 3, 3, 9]), np.array([7, 3, 3, 3, 9, 1]), 50.0)
    assert found.agreement == pytest.approx(100 * 2 / 6)
    assert found.confusions(2) == [(7, 3, 2), (3, 9, 1)]
    first, teacher, student = found.among(2)
    assert first == [7, 3]
    assert teacher.tolist() == [0, 0, 0, 1, 1, 2]
    assert student.tolist() == [0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize(("width", "dark"), [(1440, False), (390, True)])
def test_the_page_in_a_browser(browser: Browser, run: Path, tmp_path: Path, width: int, dark: bool) -> None:
    found = write_run_page(
        tmp_path / "r.html", named(stage_folders(run)), None, None, 100, 0, SilentProgress(), title="<i>title"
    )
    opened = Opened(browser, tmp_path / "r.html", width, dark)
    assert opened.complaints == []
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.page.locator("h1").inner_text() == "<i>title"
    assert opened.page.locator("img:not([alt])").count() == 0
    titles = opened.page.locator("figcaption strong").all_inner_texts()
    for title in ("Training loss", "Validation accuracy", "Agreement with the teacher", "Learning rate", "Throughput"):
        assert title in titles
    assert "Student against teacher: distill" in titles
    ids = opened.page.evaluate("[...document.querySelectorAll('[id]')].map(element => element.id)")
    assert len(ids) == len(set(ids))
    (against,) = found["compared"]
    assert f"{against['agreement']:.1f} %" in opened.page.locator("main").inner_text()
    assert found["page_bytes"] < 2_000_000


def test_foreign_names_and_formulas_are_drawn_as_what_they_are(tmp_path: Path) -> None:
    names = ["a $x", "b^2$", "another"]
    drawn = confusion(np.array([0, 1, 2]), np.array([0, 1, 1]), names, "<b>").svg
    assert ">a $x<" in drawn
    assert ">b^2$<" in drawn
    assert "<b>" not in drawn

    def paint(axes: Axes) -> None:
        axes.set(yscale="log", ylim=(1e-3, 1))

    powers = plot("powers", "", paint).svg
    assert "mathdefault" not in re.sub("<!--.*?-->", "", powers)


def test_the_command_line_compares_runs(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "finetune", tmp_path / "other" / "finetune")
    (tmp_path / "other" / "finetune" / "result.json").unlink()
    page = tmp_path / "r.html"
    done = tinyvit("report", run, tmp_path / "other", "-o", page, "--views", "20", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    lines = {line["name"]: line for line in document["stages"]}
    assert list(lines) == ["<b>$mine$/distill", "<b>$mine$/finetune", "other/finetune"]
    last = json.loads((run / "finetune" / "epochs.jsonl").read_text().splitlines()[-1])
    assert lines["<b>$mine$/finetune"]["val_top1"] == last["val"]["top1"]
    assert lines["<b>$mine$/finetune"]["state"] == "finished"
    assert lines["other/finetune"]["state"] == "under way, or stopped"
    assert document["compared"][0]["views"] == 20
    assert "<b>" not in page.read_text()
    text = tinyvit("report", run, "-o", page, "--views", "20")
    assert text.returncode == 0, text.stderr
    assert "2 of 2" in text.stdout
    assert "r.html:" in text.stdout


def test_what_there_is_no_page_about(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no training run"):
        stage_folders(tmp_path)
    with pytest.raises(UserError, match="is no folder of a training run"):
        StageRun.read("a", tmp_path)
    # A store that is gone does not spoil the curves.
    copied = shutil.copytree(run / "distill", tmp_path / "distill")
    record = json.loads((copied / "record.json").read_text())
    (copied / "record.json").write_text(json.dumps({**record, "store": str(tmp_path / "gone")}))
    found = write_run_page(tmp_path / "r.html", {"a": copied}, None, None, 10, 0, SilentProgress())
    assert "a is not compared with its teacher" in (tmp_path / "r.html").read_text()
    assert found["compared"] == []


def test_lines_are_over_the_images_seen(run: Path) -> None:
    stage = StageRun.read("a", run / "finetune")
    seen, values = stage.validated("top1")
    assert seen == [500, 1000]
    assert len(values) == 2
    assert stage.over("agreement") == ([], [])
