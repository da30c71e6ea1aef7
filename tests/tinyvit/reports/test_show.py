"""`tinyvit store show`: single views by number, by key, by what was said; and the views themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import tinyvit

from logitstore import LogitStore
from tinyvit.data.index import index_shards
from tinyvit.data.render_views import render_views
from tinyvit.labelling.describe import stored_augment, stored_decode
from tinyvit.runtime.progress import SilentProgress

KEY = "<img src=x onerror=window.hacked=1></script><script>window.hacked=1</script>07"

Foreign = tuple[LogitStore, Path]


def show(store: LogitStore, *arguments: str) -> list[dict[str, Any]]:
    done = tinyvit("store", "show", store.location, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    views: list[dict[str, Any]] = json.loads(done.stdout)["views"]
    return views


def test_one_sample_by_its_key_view_by_view(foreign: Foreign) -> None:
    store, _ = foreign
    views = show(store, "--key", KEY, "--count", "2", "--epoch", "1")
    assert [(view["key"], view["epoch"], view["slot"]) for view in views] == [(KEY, 1, 7), (KEY, 2, 7)]
    assert [view["seed"] for view in views] == [int(store.read(epoch, 0).seed[7]) for epoch in (1, 2)]
    table = tinyvit("store", "show", store.location, "--key", KEY)
    assert KEY in table.stdout.replace("\n", "")


def test_filters_find_all_that_fit_and_nothing_else(foreign: Foreign) -> None:
    store, data = foreign
    everything = ("--data", str(data), "--count", "1000")
    by_name = show(store, *everything, "--label", "class 601, ")
    assert by_name == show(store, *everything, "--label", "601")
    assert sorted((v["epoch"], v["slot"]) for v in by_name) == [(e, s) for e in range(3) for s in range(1, 40, 3)]
    wrong = show(store, *everything, "--wrong")
    rows = [store.read(epoch, 0) for epoch in range(3)]
    assert len(wrong) == sum(int(r.class_id[s, 0] != 600 + s % 3) for r in rows for s in range(40))
    kept = np.stack([r.probability.sum(axis=1) for r in rows])
    limit = float(np.median(kept))
    low = show(store, "--count", "1000", "--low-mass", str(limit))
    assert len(low) == int((kept.astype(np.float64) < limit).sum())
    assert all(view["kept"] < limit + 1e-6 for view in low)


def test_the_views_are_drawn_and_written(foreign: Foreign, tmp_path: Path) -> None:
    store, data = foreign
    asked = ("store", "show", store.location, "--data", str(data), "--slot", "3", "--count", "2", "--pictures")
    done = tinyvit(*asked, "--png", str(tmp_path / "views.png"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("▀") == 2 * 28 * 14
    shard, seeds = index_shards(data, SilentProgress()).shard(0), store.read(0, 0).seed
    made = render_views(shard, [3, 4], seeds, stored_augment(store), stored_decode(store), 32).whole()
    assert (np.array(Image.open(tmp_path / "views.png")) == np.concatenate([made[3], made[4]], axis=1)).all()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--key", "nothing"), "has no sample 'nothing'"),
        (("--key", KEY, "--slot", "3"), "give --key, or --shard and --slot, or filters"),
        (("--low-mass", "0.5", "--epoch", "1"), "give --key, or --shard and --slot, or filters"),
        (("--wrong",), "give their shards with --data"),
        (("--wrong", "--data", "examples/fashion-mnist"), "is not what"),
        (("--label", "no such class", "--data", "DATA"), "no class of the teacher is called"),
    ],
)
def test_what_cannot_be_shown_is_one_line(foreign: Foreign, arguments: tuple[str, ...], line: str) -> None:
    store, data = foreign
    done = tinyvit("store", "show", store.location, *(str(data) if part == "DATA" else part for part in arguments))
    assert done.returncode == 2
    assert line in done.stderr


def test_labels_of_other_classes_are_no_filter(small_store: LogitStore, small_data: Path) -> None:
    done = tinyvit("store", "show", small_store.location, "--wrong", "--data", str(small_data))
    assert done.returncode == 2
    assert "other classes than the teacher" in done.stderr
