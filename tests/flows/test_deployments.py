"""The commands of the README against a real server, pool and worker on a free port."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from client import ask, prefect, run_deployment, running, wait_for
from support import SMALL

from logitstore import LogitStore
from tinyvit.training.folder import read_epochs


def test_both_literal_commands_end_in_completed(server: dict[str, str], small_data: Path, tmp_path: Path) -> None:
    store, run = tmp_path / "store", tmp_path / "run"
    common = {"data": small_data, "store": store, "overrides": SMALL}
    assert "Completed" in run_deployment(server, "teacher-logits", "--watch", **common)
    assert LogitStore.open(store).sealed

    assert "Completed" in run_deployment(server, "distill-student", "--watch", **common, run_dir=run)
    assert (run / "finetune" / "model.safetensors").is_file()

    artifacts = ask(server, "artifacts/filter", {})
    assert {
        "teacher-logits",
        "teacher-logits-progress",
        "teacher-logits-confidence",
        "teacher-logits-report",
        "distill-student",
        "distill-student-curves",
        "distill-student-report",
    } <= {artifact["key"] for artifact in artifacts}


def test_training_on_two_processes_that_is_cancelled_saves_within_seconds_and_goes_on(
    server: dict[str, str], small_data: Path, tmp_path: Path
) -> None:
    folder, changes = tmp_path / "finetune", [*SMALL, "stages.finetune.epochs=12"]
    asked = {"data": small_data, "run_dir": tmp_path, "processes": 2, "stages": ["finetune"], "overrides": changes}
    run_deployment(server, "distill-student", **asked)
    wait_for(lambda: (folder / "metrics.jsonl").exists())
    run = running(server, "distill-student")
    assert not (folder / "result.json").exists(), "the run was over before it was cancelled"
    assert prefect(server, "flow-run", "cancel", run).returncode == 0
    wait_for(lambda: ask(server, f"flow_runs/{run}")["state"]["type"] == "CANCELLED")
    tasks = ask(server, "task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    (told,) = [task["state"]["message"] for task in tasks if task["name"].startswith("train")]
    saved = torch.load(folder / "state.pt", weights_only=True)
    assert f"stopped and saved after epoch {saved['epoch']} and {saved['step']} steps" in told
    assert 0 < 10 * saved["epoch"] + saved["step"] < 120
    run_deployment(server, "distill-student", "--watch", **asked)
    assert len(read_epochs(folder)) == 12
    assert json.loads((folder / "record.json").read_text())["ranks"] == 2
    assert json.loads((folder / "result.json").read_text())["val"]["images"] == 250


def test_bad_input_ends_in_failed_with_the_one_line(server: dict[str, str], tmp_path: Path) -> None:
    failed = prefect(
        server, "deployment", "run", "teacher-logits/teacher-logits", "--watch",
        "--param", "data=/nowhere", "--param", f"store={tmp_path / 's'}",
    )  # fmt: skip
    assert failed.returncode == 1
    runs = ask(server, "flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["FAILED"]}}}})
    assert [run["state"]["message"] for run in runs] == [
        "there is no data folder /nowhere; give a folder of WebDataset .tar shards, as `tinyvit data make` makes them"
    ]
    tasks = ask(server, "task_runs/filter", {"flow_runs": {"id": {"any_": [runs[0]["id"]]}}})
    assert [(t["state_name"], t["run_count"]) for t in tasks] == [("Bad input", 1)]


def test_unknown_deployment_is_a_plain_failure(server: dict[str, str]) -> None:
    failed = prefect(server, "deployment", "run", "no-such-deployment")
    assert failed.returncode == 1
    assert failed.stdout.splitlines() == ["Deployment 'no-such-deployment' not found!"]


def test_a_sealed_store_is_followed_by_its_student(
    server: dict[str, str], small_store: LogitStore, small_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(small_store.location, tmp_path / "store")
    asked = {"data": small_data, "run_dir": tmp_path, "overrides": SMALL, "then_distill": True}
    run_deployment(server, "teacher-logits", "--watch", **asked)
    wait_for(lambda: (tmp_path / "distilled" / "finetune" / "result.json").exists(), 120)
