"""The comparisons of stored and live logits and of contraction run on a few images and report what they ran."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from support import EXAMPLE, SHORT_SEARCH

from benchmarks import contraction, offline_online
from tinyvit.config import Recipe, load_recipe
from tinyvit.data.location import resolve_data
from tinyvit.errors import UserError
from tinyvit.runtime.progress import LogProgress
from tinyvit.tasks.run import open_run
from tinyvit.training.train import train_stage

TINY = {
    "fashion-teacher": ["student.kwargs.img_size=32", "stages.finetune.epochs=1", "stages.finetune.batch_size=50"],
    "fashion-distill": [
        "student.kwargs.img_size=32", "label.input_size=32", "label.epochs=1", "label.epochs_per_unit=1",
        "stages.distill.epochs=1", "stages.distill.batch_size=50",
    ],
    "contract-example": [
        *SHORT_SEARCH, "contract.budget.parameters=0.4e+6", "contract.budget.macs=null",
        *(f"stages.{stage}.{fix}" for stage in ("distill", "finetune") for fix in ("epochs=1", "warmup_epochs=0")),
    ],
}  # fmt: skip


def tiny(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """load_recipe for benchmarks, of recipes that are seconds long."""
    return load_recipe(name, [*overrides, *TINY[name]])


def test_stored_answers_are_compared_with_the_live_teacher(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offline_online, "load_recipe", tiny)
    monkeypatch.setattr(offline_online, "SHARDS", "{000000..000001}")
    teaching = open_run(resolve_data(tiny("fashion-teacher"), small_data), tmp_path, ["finetune"], 0, LogProgress())
    teacher = f"timm:local-dir:{train_stage(teaching, 'finetune', None)['checkpoint']}"
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
        return resolve_data(tiny(name, overrides), small_data)

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
    # Of the same budget: as many students, and in all about as many images.
    assert len(list((tmp_path / "seed-0" / "random").glob("round-01/c*/score.json"))) == 2
    assert drawn["pictures"] == pytest.approx(searched["pictures"], rel=0.4)
    for (line,) in found["ways"].values():
        assert 0 < line["top1"] < 100
        assert line["throughput"] > 0
    assert all(line["pictures"] == 0 for (line,) in by_hand)
    assert "random search" in contraction.markdown(found)
