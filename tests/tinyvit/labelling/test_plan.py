"""What a plan promises is what labelling then does."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest
from buckets import Bucket
from support import EXAMPLE, MANY_UNITS, label_all, small_arguments, tinyvit

from tinyvit.config import Recipe, load_recipe
from tinyvit.data.index import index_shards
from tinyvit.data.location import resolve_data
from tinyvit.labelling.plan import Work, estimated_bytes, measure, plan, recommended
from tinyvit.models.teachers import Teacher
from tinyvit.runtime.progress import LogProgress

IMAGENET_21K = Work(images=14_200_000, shards=2048, classes=21_841)


def test_a_pilot_foretells_the_bytes_and_objects_of_the_example(teacher: Teacher, tmp_path: Path) -> None:
    recipe = load_recipe("example", ["label.input_size=32", "label.epochs=4", "label.epochs_per_unit=2"])
    recipe = resolve_data(recipe, EXAMPLE)
    index = index_shards(recipe.data.train, LogProgress())
    pilot = measure(recipe, teacher, index, 0, 0.5, LogProgress())
    foretold = plan(recipe.label, Work(2000, 8, 1000), 1, None, pilot)
    store = label_all(recipe, tmp_path / "s", teacher)
    files = [file for file in Path(store.location).rglob("*") if file.is_file()]
    assert foretold.units == len(store.units()) == 16
    assert foretold.objects == len(files)
    assert foretold.bytes == pytest.approx(sum(file.stat().st_size for file in files), rel=0.15)
    assert foretold.rows == 8000
    assert foretold.wall_hours is not None


def test_a_plan_foretells_the_requests_to_a_bucket(
    teacher: Teacher, small_data: Path, bucket: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = resolve_data(load_recipe("example", MANY_UNITS), small_data)
    foretold = plan(recipe.label, Work(500, 2, 1000), 1, None, None)
    caplog.set_level(logging.INFO, "werkzeug")
    label_all(recipe, bucket.s3("store"), teacher)
    # The server's own log, in colours: "PUT /bucket/store/seed/c/0/0/0 HTTP/1.1" 200 -
    asked = [found for line in caplog.messages if (found := re.search(r"\b(PUT|GET) (\S+)", line))]
    lists = sum("list-type=" in request[2] for request in asked)
    writes = sum(request[1] == "PUT" for request in asked)
    reads = len(asked) - writes - lists
    assert foretold.units == 16
    # Beside the units' there are those of the store's documents and index, and a list of each block now and then.
    assert 0 < writes + lists - foretold.bucket_writes < 100
    assert 0 < reads - foretold.bucket_reads < 60


def test_the_papers_pretraining(small_recipe: Recipe) -> None:
    label = load_recipe("in22k-distill-21m").label
    found = plan(label, IMAGENET_21K, 8, 1500.0, None)
    assert found.units == 18 * 2048
    # The size of the paper's release (its section 4.2 and README).
    assert found.bytes_as_released / 2**30 == pytest.approx(481, abs=1)
    assert found.bytes < found.bytes_as_released / 2
    assert found.device_hours == pytest.approx(14.2e6 * 90 / 1500 / 3600)
    assert found.prefect_tasks <= 2000
    assert plan(label, IMAGENET_21K, 8, None, None).wall_hours is None


@pytest.mark.parametrize(
    ("top_k", "classes", "encoding", "measured"),
    [
        # Spread-out logits, from benchmarks/results/storage_2-cores_*.md.
        (100, 1000, "compact", 115.3),
        (100, 1000, "fine", 167.0),
        (10, 1000, "compact", 19.4),
        (100, 21841, "compact", 182.3),
        (100, 21841, "exact", 470.0),
        (10, 21841, "compact", 23.2),
    ],
)
def test_the_estimate_of_a_rows_bytes(top_k: int, classes: int, encoding: str, measured: float) -> None:
    label = load_recipe("example", [f"label.top_k={top_k}", f"label.encoding={encoding}"]).label
    assert estimated_bytes(label, classes) == pytest.approx(measured, rel=0.12)


def test_the_recommended_length_of_a_unit_bounds_time_and_memory() -> None:
    label = load_recipe("in22k-distill-5m").label
    slots = 14_200_000 // 2048
    fast, slow = (recommended(label, IMAGENET_21K, 8, speed) for speed in (1500.0, 100.0))
    assert slow < fast <= label.epochs
    assert slots * slow / 100 <= 900
    # Many devices want more units than few shards have in long ones.
    few = replace(IMAGENET_21K, images=80_000, shards=8)
    assert len(range(0, 90, recommended(label, few, 32, 1500.0))) * 8 >= 8 * 32


def test_the_command_line(small_data: Path) -> None:
    changes = small_arguments(small_data)
    done = tinyvit("plan", "example", "--json", *changes)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["images"], document["shards"], document["classes"]) == (500, 2, 1000)
    assert document["units"] == 4
    shown = tinyvit("plan", "in22k-distill-5m", "--images", "14200000", "--shards", "2048", "--classes", "21841")
    assert "480.9 GiB" in shown.stdout
    assert "--views-per-s" in shown.stdout
    wrong = tinyvit("plan", "example", "--images", "5")
    assert wrong.returncode == 2
    assert "--images and --shards together" in wrong.stderr
