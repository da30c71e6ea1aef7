"""Flow runs beside one another, and without a disk that they share."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from buckets import Bucket
from client import ask, ended, free_port, prefect, run_deployment
from support import MANY_UNITS, SMALL, upload
from toy import assert_equal_stores

from logitstore import LogitStore, diff

pytestmark = pytest.mark.usefixtures("at_length")


def begin(server: dict[str, str], deployment: str, *options: str, **parameters: Any) -> str:
    """Start a flow run; its id."""
    printed = run_deployment(server, deployment, *options, **parameters)
    (run,) = re.findall(r"[0-9a-f]{8}-[0-9a-f-]{27}", printed.split("UUID:")[1].splitlines()[0])
    return str(run)


def test_a_limit_on_gpu_tasks_holds_for_all_flow_runs(
    server: dict[str, str], small_data: Path, whole: LogitStore, tmp_path: Path
) -> None:
    made = prefect(server, "concurrency-limit", "create", "gpu", "1")
    assert made.returncode == 0, made.stdout + made.stderr
    try:
        stores = [tmp_path / "one", tmp_path / "two"]
        asked = {"data": small_data, "overrides": MANY_UNITS, "units_per_task": 16}
        runs = [begin(server, "teacher-logits", store=store, **asked) for store in stores]
        assert [ended(server, run) for run in runs] == ["COMPLETED", "COMPLETED"]
    finally:
        prefect(server, "concurrency-limit", "delete", "gpu")
    wanted = {"flow_runs": {"id": {"any_": runs}}, "task_runs": {"tags": {"all_": ["gpu"]}}}
    tasks = sorted(ask(server, "task_runs/filter", wanted), key=lambda task: str(task["start_time"]))
    assert len(tasks) == 2
    assert tasks[0]["end_time"] <= tasks[1]["start_time"]
    for store in stores:
        assert_equal_stores(LogitStore.open(store), whole)


def test_a_flow_run_for_each_of_two_machines_trains_one_student(
    server: dict[str, str], small_data: Path, tmp_path: Path
) -> None:
    asked = {"data": small_data, "run_dir": tmp_path, "stages": ["finetune"], "overrides": SMALL, "processes": 1}
    meeting = {"nodes": 2, "rendezvous": f"127.0.0.1:{free_port()}"}
    runs = [begin(server, "distill-student", **asked, **meeting) for _ in range(2)]
    assert [ended(server, run) for run in runs] == ["COMPLETED", "COMPLETED"]
    assert json.loads((tmp_path / "finetune" / "record.json").read_text())["ranks"] == 2
    assert json.loads((tmp_path / "finetune" / "result.json").read_text())["val"]["images"] == 250


def test_both_flows_with_shards_and_store_in_a_bucket(
    server: dict[str, str], bucket: Bucket, small_store: LogitStore, small_data: Path, tmp_path: Path
) -> None:
    upload(small_data, bucket.s3("data"))
    keys = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    keys["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    job = ("--job-variable", f"env={json.dumps(keys)}")
    asked = {"data": bucket.s3("data"), "store": bucket.s3("store"), "overrides": SMALL}
    assert ended(server, begin(server, "teacher-logits", *job, **asked)) == "COMPLETED"
    store = LogitStore.open(bucket.s3("store"))
    assert store.sealed
    assert all(found.equal == found.rows and not found.other_seed for found in diff(store, small_store))
    assert ended(server, begin(server, "distill-student", *job, **asked, run_dir=tmp_path)) == "COMPLETED"
    assert json.loads((tmp_path / "finetune" / "result.json").read_text())["val"]["images"] == 250
    # Labelling and training, three epochs and four, read each shard to index it and to keep it near; their reports ask
    # for some images, and training for a few samples on which it tries whether views can be made again.
    read = bucket.read()
    for number in range(2):
        assert read[f"data/train/train-00000{number}.tar"] < 250 / 2
    assert read["data/val/val-000000.tar"] == 2
    kept = [path.suffix for path in (tmp_path / "cache" / "tinyvit" / "shards").iterdir()]
    # The rows of two epochs of two shards beside them.
    assert (kept.count(".tar"), kept.count(".rows")) == (3, 4)
