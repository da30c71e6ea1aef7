"""Judging as a deployment: the scorecard that the command line makes, and its artifacts."""

from __future__ import annotations

import json
from pathlib import Path

from client import ask, run_deployment
from support import tinyvit

from tinyvit.config import Decode, Recipe
from tinyvit.models import create_student, save_student


def test_the_deployment_and_the_command_line_give_one_scorecard(
    server: dict[str, str], small_recipe: Recipe, small_data: Path, tmp_path: Path
) -> None:
    classes = (small_data / "val" / "classes.txt").read_text().splitlines()
    for seed in range(2):
        model = create_student(small_recipe.student, 10, seed=seed)
        save_student(tmp_path / str(seed), model, small_recipe.student, classes, Decode())
    networks, data = [f"{name}={tmp_path / str(seed)}" for seed, name in enumerate("ab")], f"small={small_data}"
    asked = {"networks": networks, "data": [data], "measures": ["top-1", "knn"], "run_dir": tmp_path / "flow"}
    told = run_deployment(server, "evaluate-student", "--watch", **asked)
    assert "Completed" in told
    only = ("--only", "top-1", "--only", "knn")
    done = tinyvit("scorecard", *networks, "--data", data, *only, "--run-dir", tmp_path / "alone", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "flow" / "scorecard.json").read_text()) == json.loads(done.stdout)
    assert (tmp_path / "flow" / "scorecard.html").is_file()
    assert {"evaluate-student", "evaluate-student-page"} <= {a["key"] for a in ask(server, "artifacts/filter", {})}
