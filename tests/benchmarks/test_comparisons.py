"""The comparisons of training and of contraction run on a few pictures and report what they ran."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import EXAMPLE, SHORT_SEARCH

from benchmarks import contraction, distillation, offline_online
from tinyvit.config import Recipe, load_recipe
from tinyvit.errors import UserError
from tinyvit.progress import LogProgress

TINY = {
    "fashion-teacher": ["student.kwargs.img_size=32", "stages.finetune.epochs=3", "stages.finetune.batch_size=50"],
    "fashion-distill": [
        "student.kwargs.img_size=32", "label.input_size=32", "label.epochs=1", "label.epochs_per_unit=1",
        *(f"stages.{way}.{setting}" for way in ("distill", "scratch") for setting in ("epochs=1", "batch_size=50")),
    ],
    "contract-example": [
        *SHORT_SEARCH, "contract.budget.parameters=0.4e+6", "contract.budget.macs=null",
        *(f"stages.{stage}.{fix}" for stage in ("distill", "finetune") for fix in ("epochs=1", "warmup_epochs=0")),
    ],
}  # fmt: skip


def tiny(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """load_recipe for benchmarks, of recipes that are seconds long."""
    return load_recipe(name, [*overrides, *TINY[name]])


@pytest.fixture(scope="module")
def folder(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the comparison of students was made, with its teacher."""
    folder = tmp_path_factory.mktemp("comparison")
    (folder / "data").symlink_to(small_data)
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> Iterator[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distillation, "load_recipe", tiny)
        yield distillation.compare(folder, 2, [], LogProgress())


def test_a_student_of_a_teacher_is_compared_with_its_twin(folder: Path, found: dict[str, Any]) -> None:
    assert found["distill_steps"] == found["scratch_steps"] == [10, 10]
    for way in ("distill", "scratch"):
        first, second = found[f"{way}_loss"]
        assert first != second, "two seeds, one student"
        assert len(found[f"{way}_top1"]) == 2
    # The teacher is the one that was fine-tuned: it knows better than chance.
    assert found["teacher_top1"] > 20
    assert "± " in distillation.markdown(found)
    distillation.draw(found, folder / "accuracies.png")
    assert (folder / "accuracies.png").stat().st_size > 10_000
    # Nothing is trained again.
    assert distillation.compare(folder, 2, [], LogProgress()) == found


def test_stored_answers_are_compared_with_the_live_teacher(
    folder: Path, found: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offline_online, "load_recipe", tiny)
    monkeypatch.setattr(offline_online, "SHARDS", "{000000..000001}")
    teacher = f"timm:local-dir:{folder / 'teacher' / 'finetune'}"
    compared = offline_online.compare(tmp_path / "runs", EXAMPLE, teacher, LogProgress())
    assert [len(losses) for losses in compared["losses"].values()] == [10, 10, 10]
    assert compared["largest_difference"]["exact"] < compared["largest_difference"]["compact"] < 0.1
    offline_online.draw(compared, tmp_path / "losses.png")
    assert (tmp_path / "losses.png").stat().st_size > 10_000
    with pytest.raises(UserError, match="give one that was fine-tuned"):
        offline_online.compare(tmp_path / "other", EXAMPLE, "pypi:efficientnet-lite0", LogProgress())


def test_what_a_search_finds_is_compared_with_what_others_find(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(name: str, overrides: Sequence[str] = ()) -> Recipe:
        return tiny(name, overrides).with_data(small_data)

    monkeypatch.setattr(contraction, "load_recipe", small)
    (tmp_path / "data").symlink_to(small_data)
    found = contraction.compare(tmp_path, 1, [], LogProgress())
    assert list(found["ways"]) == [
        "contraction", "contraction, fresh weights", "random search", "by hand, wide", "by hand, deep",
    ]  # fmt: skip
    (searched,), (fresh,), (drawn,), *by_hand = found["ways"].values()
    assert searched["parameters"] <= 0.4e6
    assert fresh["parameters"] <= 0.4e6
    assert 0.85 * 0.4e6 <= drawn["parameters"] <= 0.4e6
    # Of the same budget: as many students, and in all about as many pictures.
    assert len(list((tmp_path / "seed-0" / "random").glob("round-01/c*/score.json"))) == 2
    assert drawn["pictures"] == pytest.approx(searched["pictures"], rel=0.4)
    for (line,) in found["ways"].values():
        assert 0 < line["top1"] < 100
        assert line["throughput"] > 0
    assert all(line["pictures"] == 0 for (line,) in by_hand)
    assert "random search" in contraction.markdown(found)
