"""`tinyvit store info`: whole, unfinished and damaged stores at a glance."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support import tinyvit

from logitstore import LogitStore, StoreDamaged
from tinyvit.data.index import index_shards
from tinyvit.reports import statistics
from tinyvit.reports.images import ViewRef, _Remade
from tinyvit.reports.sampled_rows import sample_rows
from tinyvit.runtime.progress import SilentProgress


def info(store: str | Path, *arguments: str) -> dict[str, Any]:
    done = tinyvit("store", "info", str(store), "--json", *arguments)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def copied(whole: LogitStore, tmp_path: Path) -> LogitStore:
    """A store of sixteen units, to be changed."""
    return LogitStore.open(shutil.copytree(whole.location, tmp_path / "s"))


def test_what_was_said_and_how_it_agrees(foreign: tuple[LogitStore, Path]) -> None:
    store, data = foreign
    said = info(store.location, "--data", str(data))["answers"]
    sampled = sample_rows(store, 1000, 0, SilentProgress())
    assert said["rows_drawn"] == len(sampled) == 120
    assert said["mean_entropy"] == pytest.approx(float(statistics.entropy(sampled).mean()))
    right = sum(int(best) == 600 + slot % 3 for best, slot in zip(sampled.best, sampled.slot.tolist(), strict=True))
    assert said["agreement"]["top1"] == pytest.approx(100 * right / 120)
    assert info(store.location)["answers"]["agreement"] is None


def test_labels_are_matched_by_name_and_those_of_no_class_are_counted(
    foreign: tuple[LogitStore, Path], tmp_path: Path
) -> None:
    """Of 602 classes two, which have a third of the images each, are called otherwise, the others renumbered."""
    store, data = foreign
    names = (data / "classes.txt").read_text().splitlines()[:603]
    shutil.copytree(data, tmp_path / "data")
    listed = [*names[600:603], *names[:600]]
    mapped = [*listed[:600], "neither", "nor", listed[602]]
    (tmp_path / "data" / "classes.txt").write_text("".join(f"{name}\n" for name in mapped))
    said = info(store.location, "--data", str(tmp_path / "data"))["answers"]
    assert "but 2 of the data's 603 classes are none of its; 81 of 120 rows have no label that is one" in said["labels"]
    sampled = sample_rows(store, 1000, 0, SilentProgress())
    # Label 602 is class 599 now.
    of_602 = [int(best) for best, slot in zip(sampled.best, sampled.slot.tolist(), strict=True) if slot % 3 == 2]
    assert said["agreement"]["top1"] == pytest.approx(100 * of_602.count(599) / len(of_602))


def test_progress_of_an_unfinished_store_by_epochs(copied: LogitStore) -> None:
    for unit in copied.units()[3:]:
        copied.uncommit(unit)
    facts = info(copied.location)
    assert [block["units_there"] for block in facts["progress"]] == [2, 1, 0, 0, 0, 0, 0, 0]
    assert [block["epochs"] for block in facts["progress"]][:2] == ["0-0", "1-1"]
    assert facts["answers"]["rows_drawn"] == facts["rows"] == 750
    assert facts["rows_per_s_when_written"] > 0
    shown = tinyvit("store", "info", copied.location).stdout
    assert "3 of 16, not sealed" in shown
    assert "█" * 12 + "░" * 12 + " 1 of 2" in shown


def test_a_damaged_store_is_still_described(copied: LogitStore) -> None:
    for unit in copied.units():
        (Path(copied.location) / copied.arrays["value"].key(unit.block, unit.shard)).write_bytes(b"nothing")
    assert info(copied.location)["answers"] is None
    done = tinyvit("store", "info", copied.location)
    assert done.returncode == 0
    assert "`tinyvit store verify` says why" in done.stdout


def test_an_empty_store_and_other_shards(copied: LogitStore, foreign: tuple[LogitStore, Path], tmp_path: Path) -> None:
    empty = LogitStore.create(tmp_path / "empty", copied.spec, copied.table)
    facts = info(empty.location)
    assert (facts["rows"], facts["answers"], facts["rows_per_s_when_written"]) == (0, None, None)
    assert tinyvit("store", "info", empty.location).returncode == 0
    wrong = tinyvit("store", "info", copied.location, "--data", str(foreign[1]))
    assert wrong.returncode == 2
    assert "is not what" in wrong.stderr


def test_a_damaged_unit_is_no_unit_that_is_not_there_yet(copied: LogitStore, small_data: Path) -> None:
    index, unit = index_shards(small_data / "train", SilentProgress()), copied.units()[-1]
    copied.uncommit(unit)
    epochs = range(copied.spec.epochs)
    shown = list(_Remade(index, copied.location, (ViewRef(unit.shard, 0, tuple(epochs)),), 3).read(0, 1))
    assert [view.epoch for view in shown[0].views] == list(epochs)[:-1]
    (Path(copied.location) / copied.arrays["value"].key(0, unit.shard)).write_bytes(b"nothing")
    with pytest.raises(StoreDamaged, match=r"epochs 0 to 0 of .*; run `tinyvit store verify --repair`"):
        list(_Remade(index, copied.location, (ViewRef(unit.shard, 0, tuple(epochs)),), 3).read(0, 1))
