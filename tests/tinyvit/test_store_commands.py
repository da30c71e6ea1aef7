"""`tinyvit store` as a user types it, on a store of the real teacher."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from buckets import Bucket
from support import SMALL, label_all, small_arguments, tinyvit
from toy import assert_equal_stores, forget

from logitstore import LogitStore, StoreError, Unit
from logitstore.units import UnitStore
from tinyvit.config import load_recipe
from tinyvit.data.location import resolve_data
from tinyvit.labelling import describe as store_facts
from tinyvit.labelling.verify_logits import replay_faults
from tinyvit.models.teachers import Teacher
from tinyvit.runtime.progress import LogProgress


@pytest.fixture
def copied(small_store: LogitStore, tmp_path: Path) -> Path:
    """A store that a test may damage."""
    shutil.copytree(small_store.location, tmp_path / "s")
    return tmp_path / "s"


def run(*arguments: str | Path, rc: int = 0) -> dict[str, Any]:
    done = tinyvit("store", *arguments, "--json")
    assert done.returncode == rc, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_verify_against_the_shards_and_the_live_teacher(copied: Path, small_data: Path) -> None:
    found = run("verify", copied, "--data", small_data, "--replay", "24")
    assert (found["units"], found["missing"], found["faulty"], found["faults"]) == (4, 0, 0, [])
    assert found["views_replayed"] == 24


def test_the_bytes_of_a_large_store_are_reckoned_from_some_of_its_units(
    whole: LogitStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [file for file in Path(whole.location).rglob("*") if file.is_file()]
    exact = store_facts.describe(whole)
    assert exact["bytes"] == sum(file.stat().st_size for file in files)
    assert exact["bytes_from_units"] == 16
    monkeypatch.setattr(store_facts, "WEIGHED_UNITS", 3)
    reckoned = store_facts.describe(whole)
    assert reckoned["bytes_from_units"] == 3
    assert reckoned["bytes"] == pytest.approx(exact["bytes"], rel=0.05)
    assert reckoned["bytes_of"]["value"] != exact["bytes_of"]["value"]


def test_repair_uncommits_exactly_the_faulty_units_and_labelling_redoes_them(
    copied: Path, small_store: LogitStore, small_data: Path
) -> None:
    flip(copied / "value" / "c" / "0" / "1" / "0" / "0")
    found = run("verify", copied, rc=1)
    assert found["faulty"] == 1
    assert "epochs 0 to 1 of train-000001.tar: value is damaged" in found["faults"][0]
    assert run("verify", copied, "--repair", rc=1)["uncommitted_now"] == 1
    assert LogitStore.open(copied).missing() == [Unit(0, 1)]
    done = tinyvit("label", "example", "--store", copied, "--json", *small_arguments(small_data))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["units_labelled_now"] == 1
    assert run("verify", copied)["faults"] == []
    assert_equal_stores(LogitStore.open(copied), small_store)


def test_a_store_of_earlier_rules_is_shown_but_neither_replayed_nor_trained_on(
    copied: Path, small_data: Path, tmp_path: Path
) -> None:
    assert run("info", copied)["decode"] == {"rules": 2, "orientation": "exif", "background": None}
    forget(copied, "decode")
    assert run("info", copied)["decode"] == {}
    assert "read by the rules of an earlier release" in tinyvit("store", "info", copied).stdout
    shown = tinyvit("store", "show", copied, "--data", small_data, "--slot", "3", "--pictures")
    assert shown.returncode == 0, shown.stderr
    assert run("verify", copied, "--data", small_data)["faults"] == []
    words = "decode is not recorded in the store (an earlier release made it), {'rules': 2, "
    found = run("verify", copied, "--data", small_data, "--replay", "4", rc=1)
    assert found["views_replayed"] == 0
    assert found["faults"][0].startswith(words)
    run_dir = ("--run-dir", str(tmp_path / "run"))
    for command, more in (("label", ()), ("train", run_dir)):
        done = tinyvit(command, "example", "--store", copied, *more, *small_arguments(small_data))
        assert done.returncode == 2
        assert words in done.stderr
    (finding,) = [
        finding
        for finding in json.loads(
            tinyvit("doctor", "example", "--store", copied, "--json", *small_arguments(small_data)).stdout
        )["findings"]
        if finding["check"] == "store"
    ]
    assert finding["state"] == "failed"
    assert words in finding["told"]


def test_replay_finds_rows_that_belong_to_other_views(copied: Path, small_data: Path) -> None:
    """Sound in itself, and wrong: rows of each unit in another order, as a shuffled loader would have written."""
    store = LogitStore.open(copied)
    for unit in store.units():
        rows = store.read_unit(unit)
        names = ("class_id", "probability", "residual")
        store.write_unit(unit, replace(rows, **{n: np.roll(getattr(rows, n), 1, axis=1) for n in names}))
    store.seal()
    assert run("verify", copied, "--data", small_data / "train")["faults"] == []
    found = run("verify", copied, "--data", small_data / "train", "--replay", "24", rc=1)
    assert len(found["faults"]) > 20
    assert "the teacher's logits for" in found["faults"][0]


@pytest.mark.parametrize(
    "overrides", [("label.select=sampled", "label.top_k=200"), ("label.select=mass", "label.mass=0.1")]
)
def test_rows_of_several_lengths_are_labelled_and_replayed(
    small_data: Path, teacher: Teacher, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    store = label_all(resolve_data(load_recipe("example", [*SMALL, *overrides]), small_data), tmp_path / "s", teacher)
    rows = store.read(0, 0)
    assert len(set((rows.probability > 0).sum(axis=1))) > 5
    assert np.allclose(rows.probability.sum(axis=1) + rows.residual, 1, atol=1e-5)
    assert run("verify", tmp_path / "s", "--data", small_data / "train", "--replay", "16")["faults"] == []
    arguments = [part for change in overrides for part in ("--set", change)]
    trained = tinyvit("train", "example", "--store", tmp_path / "s", "--run-dir", tmp_path / "r", "--stage", "distill",
                      *small_arguments(small_data), *arguments, "--json")  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    loss = json.loads(trained.stdout)["distill"]["last"]["loss"]
    assert 0 < loss < 7


def test_verify_lists_a_damaged_index_and_damaged_units(copied: Path) -> None:
    flip(copied / "shard_sha256" / "c" / "0")
    found = run("verify", copied, rc=1)
    assert "shard_sha256 cannot be read" in found["faults"][0]


def test_views_that_were_not_replayed_are_not_counted(copied: Path, small_data: Path) -> None:
    flip(copied / "value" / "c" / "0" / "1" / "0" / "0")
    found = run("verify", copied, "--data", small_data / "train", "--replay", "20", rc=1)
    assert found["faulty"] == 1
    assert len(found["faults"]) == 1
    assert found["views_replayed"] == 20
    (copied / "class_name" / "c" / "0").unlink()
    found = run("verify", copied, "--data", small_data / "train", "--replay", "20", rc=1)
    assert found["views_replayed"] == 0


def test_no_more_views_are_counted_than_there_are(copied: Path, small_data: Path) -> None:
    store = LogitStore.open(copied)
    for unit in store.units()[1:]:
        store.uncommit(unit)
    found = run("verify", copied, "--data", small_data / "train", "--replay", "600", rc=1)
    assert (found["missing"], found["faults"]) == (3, [])
    assert found["views_replayed"] == 500


@pytest.fixture
def silent(copied: Path) -> Path:
    """A sealed store without a single valid row, as earlier releases made them."""
    store = LogitStore.open(copied)
    for unit in store.units():
        rows = store.read_unit(unit)
        store.write_unit(unit, replace(rows, valid=np.zeros_like(rows.valid)))
    with pytest.raises(StoreError, match="no row of it is valid"):
        store.seal()
    UnitStore.seal(store)
    return copied


def test_a_store_without_an_answer_is_told_from_a_sound_one(silent: Path, small_data: Path, tmp_path: Path) -> None:
    assert "no row of it is valid" in run("verify", silent, rc=1)["faults"][0]
    found = run("verify", silent, "--data", small_data / "train", "--replay", "8", rc=1)
    assert (found["views_replayed"], len(found["faults"])) == (0, 1)
    assert run("info", silent)["answers"] == {"rows_drawn": 1500, "rows_without_answer": 1500}
    assert "none of 1,500 rows is valid" in tinyvit("store", "info", silent).stdout
    for arguments in (
        ("store", "report", silent, "--out", tmp_path / "page.html"),
        ("train", "example", "--store", silent, "--run-dir", tmp_path / "r", *small_arguments(small_data)),
    ):
        done = tinyvit(*arguments)
        assert done.returncode == 2
        assert "run `tinyvit store verify`" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_replay_that_compares_nothing_is_not_well(copied: Path, small_data: Path, teacher: Teacher) -> None:
    store = LogitStore.open(copied)
    rows = store.read_unit(Unit(0, 0))
    store.write_unit(Unit(0, 0), replace(rows, valid=np.zeros_like(rows.valid)))
    store.seal()
    data, units = small_data / "train", store.units()
    asked, faults = replay_faults(store, data, teacher, units[:1], 8, 0, LogProgress())
    assert (asked, faults) == (0, ["no view was compared: there are no logits to compare with"])
    # Where other units have logits, as many are compared as were asked for.
    assert replay_faults(store, data, teacher, units, 24, 0, LogProgress()) == (24, [])


def test_a_teacher_that_answers_no_more_is_a_fault(copied: Path, small_data: Path, teacher: Teacher) -> None:
    class Silent(Teacher):
        def logits(self, views: torch.Tensor) -> torch.Tensor:
            return torch.full((len(views), 1000), torch.nan)

    store, now_silent = LogitStore.open(copied), Silent(**vars(teacher))
    asked, faults = replay_faults(store, small_data / "train", now_silent, store.units(), 8, 0, LogProgress())
    assert (asked, len(faults)) == (8, 8)
    assert faults[0].endswith("are now others: they are not finite")


def test_another_teacher_is_not_asked(small_store: LogitStore, small_data: Path, tmp_path: Path) -> None:
    spec = replace(small_store.spec, teacher={**small_store.spec.teacher, "weights_sha256": "00"})
    store = LogitStore.create(tmp_path / "s", spec, small_store.table, small_store.class_names)
    for unit in small_store.units():
        store.write_unit(unit, small_store.read_unit(unit))
    found = run("verify", tmp_path / "s", "--data", small_data / "train", "--replay", "4", rc=1)
    assert "weights" in found["faults"][0]
    assert found["views_replayed"] == 0


def test_verify_finds_shards_with_other_samples(copied: Path, small_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(small_data / "train", data)
    shutil.copy(next((small_data / "val").glob("*.tar")), data / "train-000001.tar")
    found = run("verify", copied, "--data", data, rc=1)
    assert "train-000001.tar, slot 0: the key is 'train-" in found["faults"][0]
    assert "in the store, 'val-" in found["faults"][0]
    assert "train-000001.tar has other bytes" in found["faults"][1]


def test_copy_diff_and_merge(small_store: LogitStore, tmp_path: Path) -> None:
    made = run(
        "copy", small_store.location, tmp_path / "fine", "--encoding", "exact", "--top-k", "5", "--epochs", "1:3"
    )
    assert (made["units_written_now"], made["missing"]) == (2, 0)
    assert made["sealed"] != "no"
    assert run("diff", small_store.location, small_store.location)["views_equal"] == 1500
    one = run("copy", small_store.location, tmp_path / "one", "--epochs", "1:3")
    assert one["sealed"] != "no"
    found = run("diff", tmp_path / "one", tmp_path / "fine", rc=1)
    assert found["views_compared"] == 1000
    assert found["views_with_another_best_class"] == found["views_of_another_seed"] == 0
    assert any("top_k is 20" in line for line in found["specification"])
    assert 0 < found["total_variation_mean"] < 0.5
    merged = run("merge", tmp_path / "merged", tmp_path / "one", tmp_path / "one")
    assert merged["units_written_now"] == 2
    assert_equal_stores(LogitStore.open(tmp_path / "merged"), LogitStore.open(tmp_path / "one"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["copy", "STORE", "t", "--epochs", "one"], "--epochs one is not understood"),
        (["copy", "STORE", "t", "--epochs", "2:9"], "epochs 0 to 2"),
        (["copy", "STORE", "t", "--encoding", "zip"], "encoding 'zip' is unknown"),
        (["verify", "STORE", "--replay", "3"], "--data"),
        (["diff", "STORE", "nowhere"], "no logit store at nowhere"),
        (["merge", "t", "STORE", "nowhere"], "no logit store at nowhere"),
    ],
)
def test_what_a_user_can_get_wrong(small_store: LogitStore, arguments: list[str], message: str, tmp_path: Path) -> None:
    done = tinyvit("store", *(small_store.location if a == "STORE" else a for a in arguments), cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_both_stages_with_the_store_in_a_bucket(
    bucket: Bucket, small_store: LogitStore, small_data: Path, tmp_path: Path
) -> None:
    place = bucket.s3("example/store")
    labelled = tinyvit("label", "example", "--store", place, *small_arguments(small_data), "--json")
    assert labelled.returncode == 0, labelled.stderr
    assert json.loads(labelled.stdout)["units_labelled_now"] == 4
    assert run("diff", small_store.location, place)["views_equal"] == 1500
    web = bucket.published("example/store")
    assert run("info", web)["units_missing"] == 0
    results = []
    for number, store in enumerate((small_store.location, place, web)):
        done = tinyvit("train", "example", "--store", store, "--run-dir", tmp_path / str(number), "--stage", "distill",
                       *small_arguments(small_data), "--json")  # fmt: skip
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout)["distill"]["last"]["loss"])
    assert results[0] == results[1] == results[2]
