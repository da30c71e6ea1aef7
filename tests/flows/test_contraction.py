"""Contraction as a deployment: candidates side by side, one lost, and the path that one process takes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from client import ask, ended, pool_processes, run_deployment, running, wait_for
from support import SHORT_SEARCH, tinyvit

from logitstore import LogitStore

# Two rounds: each takes new processes the time to import torch.
OVERRIDES = [*SHORT_SEARCH, "contract.budget={parameters: 0.35e+6}"]


def test_candidates_side_by_side_take_the_path_of_one_process_though_one_is_killed(
    server: dict[str, str], small_data: Path, small_store: LogitStore, tmp_path: Path
) -> None:
    asked = {"data": small_data, "store": small_store.location, "overrides": OVERRIDES}
    run_deployment(server, "contract-student", **asked, run_dir=tmp_path / "flow", runner="processes", workers=2)
    wait_for(lambda: any((tmp_path / "flow").glob("round-01/c*/*/metrics.jsonl")), 180)
    run = running(server, "contract-student")
    os.kill(pool_processes(run)[0], signal.SIGKILL)
    assert ended(server, run) == "COMPLETED"
    logs = ask(server, "logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200})
    assert any("a candidate was lost" in line["message"] for line in logs)
    changes = [part for change in OVERRIDES for part in ("--set", change)]
    done = tinyvit("contract", "contract-example", "--data", small_data, "--store", small_store.location,
                   "--run-dir", tmp_path / "alone", *changes, "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    paths = [
        [[(c["student"], c["loss"], c["chosen"]) for c in of["candidates"]] for of in path["rounds"]]
        for path in (json.loads((tmp_path / "flow" / "path.json").read_text()), json.loads(done.stdout))
    ]
    assert paths[0] == paths[1]
    keys = {artifact["key"] for artifact in ask(server, "artifacts/filter", {})}
    assert {"contract-student", "contract-student-path"} <= keys
    wanted = {"task_runs": {"name": {"like_": "train round"}}}
    names = [run["name"] for run in ask(server, "task_runs/filter", wanted)]
    assert sorted(set(names)) == sorted(f"train {c['folder']}" for of in json.loads(done.stdout)["rounds"]
                                        for c in of["candidates"])  # fmt: skip
