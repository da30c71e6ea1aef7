"""The commands of the README against a real server, pool and worker on a free port."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import torch
from support import ROOT, SMALL

from flows.server import local_server
from storage import LogitStore
from tinyvit.training.folder import read_epochs

BIN = Path(sys.executable).parent
OVERRIDES = "overrides=[" + ",".join(f'"{o}"' for o in SMALL) + "]"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def prefect(environment: dict[str, str], *arguments: str, timeout: int = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "prefect", *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A server with both deployments; gives the environment in which `prefect` talks to it."""
    port, home = free_port(), tmp_path_factory.mktemp("prefect")
    # prefect.yaml names the project's folder by PWD, which keeps pointing at where pytest was started.
    changes = {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "PREFECT_HOME": str(home), "PWD": str(ROOT)}
    environment = os.environ | changes
    with local_server(port, home):
        deployed = prefect(environment, "--no-prompt", "deploy", "--all")
        assert deployed.returncode == 0, deployed.stdout + deployed.stderr
        yield environment


def test_both_literal_commands_end_in_completed(server: dict[str, str], small_data: Path, tmp_path: Path) -> None:
    store, run = tmp_path / "store", tmp_path / "run"
    common = ["--param", f"data={small_data}", "--param", f"store={store}", "--param", OVERRIDES, "--watch"]
    labelled = prefect(server, "deployment", "run", "teacher-logits", *common)
    assert labelled.returncode == 0, labelled.stdout + labelled.stderr
    assert "Completed" in labelled.stdout
    assert LogitStore.open(store).sealed

    trained = prefect(server, "deployment", "run", "distill-student", *common, "--param", f"run_dir={run}")
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "Completed" in trained.stdout
    assert (run / "finetune" / "model.safetensors").is_file()

    artifacts = httpx.post(f"{server['PREFECT_API_URL']}/artifacts/filter", json={}).json()
    assert {"teacher-logits", "teacher-logits-progress", "distill-student", "distill-student-curves"} <= {
        artifact["key"] for artifact in artifacts
    }


def test_the_flow_trains_on_several_processes(server: dict[str, str], small_data: Path, tmp_path: Path) -> None:
    asked = {"data": small_data, "run_dir": tmp_path, "processes": 2, "stages": '["finetune"]'}
    parameters = [part for name, value in asked.items() for part in ("--param", f"{name}={value}")]
    trained = prefect(server, "deployment", "run", "distill-student", *parameters, "--param", OVERRIDES, "--watch")
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert json.loads((tmp_path / "finetune" / "record.json").read_text())["ranks"] == 2
    assert json.loads((tmp_path / "finetune" / "result.json").read_text())["val"]["images"] == 250


def test_cancelled_training_saves_within_seconds_and_goes_on(
    server: dict[str, str], small_data: Path, tmp_path: Path
) -> None:
    folder, changes = tmp_path / "finetune", [*SMALL, "stages.finetune.epochs=20"]
    asked = {"data": small_data, "run_dir": tmp_path, "stages": '["finetune"]', "overrides": json.dumps(changes)}
    parameters = [part for name, value in asked.items() for part in ("--param", f"{name}={value}")]
    begun = prefect(server, "deployment", "run", "distill-student", *parameters)
    assert begun.returncode == 0, begun.stdout + begun.stderr
    wait_for(lambda: (folder / "record.json").exists())
    time.sleep(2)
    api, names = server["PREFECT_API_URL"], {"deployments": {"name": {"any_": ["distill-student"]}}}
    (run,) = [
        run["id"]
        for run in httpx.post(f"{api}/flow_runs/filter", json=names).json()
        if run["state"]["type"] == "RUNNING"
    ]
    assert not (folder / "result.json").exists(), "the run was over before it was cancelled"
    assert prefect(server, "flow-run", "cancel", run).returncode == 0
    wait_for(lambda: (folder / "state.pt").exists(), seconds=20)
    wait_for(lambda: httpx.get(f"{api}/flow_runs/{run}").json()["state"]["type"] == "CANCELLED")
    saved = torch.load(folder / "state.pt", weights_only=True)
    assert saved["epoch"] < 20
    again = prefect(server, "deployment", "run", "distill-student", *parameters, "--watch")
    assert again.returncode == 0, again.stdout + again.stderr
    assert len(read_epochs(folder)) == 20


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.1)


def test_bad_input_ends_in_failed_with_the_one_line(server: dict[str, str], tmp_path: Path) -> None:
    failed = prefect(
        server, "deployment", "run", "teacher-logits/teacher-logits", "--watch",
        "--param", "data=/nowhere", "--param", f"store={tmp_path / 's'}",
    )  # fmt: skip
    assert failed.returncode == 1
    runs = httpx.post(
        f"{server['PREFECT_API_URL']}/flow_runs/filter",
        json={"flow_runs": {"state": {"type": {"any_": ["FAILED"]}}}},
    ).json()
    assert [run["state"]["message"] for run in runs] == [
        "there is no data folder /nowhere; give a folder of WebDataset .tar shards"
    ]
    tasks = httpx.post(
        f"{server['PREFECT_API_URL']}/task_runs/filter", json={"flow_runs": {"id": {"any_": [runs[0]["id"]]}}}
    ).json()
    assert [(t["state_name"], t["run_count"]) for t in tasks] == [("Bad input", 1)]


def test_unknown_deployment_is_a_plain_failure(server: dict[str, str]) -> None:
    failed = prefect(server, "deployment", "run", "no-such-deployment")
    assert failed.returncode == 1
    assert failed.stdout.splitlines() == ["Deployment 'no-such-deployment' not found!"]
