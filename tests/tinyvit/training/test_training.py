"""Stage 2: joined with the store, resumed after a kill, loadable by plain timm."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from support import command, small_arguments, tinyvit, wait_until

from logitstore import LogitStore
from tinyvit.config import Recipe
from tinyvit.models import load_weights


def train_arguments(run: Path, store: str, data: Path) -> list[str]:
    return [
        "train",
        "example",
        "--run-dir",
        str(run),
        "--store",
        store,
        "--workers",
        "1",
        *small_arguments(data),
    ]


@pytest.fixture(scope="module")
def trained(small_store: LogitStore, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    done = tinyvit(*train_arguments(run, small_store.location, small_data), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert list(document) == ["distill", "finetune"]
    assert document["finetune"]["val"]["images"] == 250
    return run


def test_a_run_killed_with_9_and_resumed_ends_in_identical_weights(
    trained: Path, small_store: LogitStore, small_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = train_arguments(run, small_store.location, small_data)
    process = subprocess.Popen(command(*arguments), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wait_until((run / "distill" / "epochs.jsonl").exists, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    epochs = len((run / "distill" / "epochs.jsonl").read_text().splitlines())
    assert epochs < 2, "the kill came too late to prove anything"
    done = tinyvit(*arguments)
    assert done.returncode == 0, done.stderr
    assert "resumed after epoch 1 of 2" in " ".join(done.stderr.split())
    for stage in ("distill", "finetune"):
        whole, resumed = load_weights(trained / stage), load_weights(run / stage)
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_plain_timm_loads_the_checkpoint(trained: Path, small_recipe: Recipe) -> None:
    student = small_recipe.student
    kwargs: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in student.kwargs.items() if k != "img_size"
    }
    file = str(trained / "finetune" / "model.safetensors")
    told = timm.create_model(student.name, num_classes=10, checkpoint_path=file, **kwargs)
    folder: Any = timm.create_model(f"local-dir:{trained / 'finetune'}", pretrained=True)
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.equal(told.eval()(pixels), folder.eval()(pixels))
    assert list(folder.pretrained_cfg["input_size"]) == [3, 32, 32]


def test_a_finished_stage_is_not_trained_again(trained: Path, small_store: LogitStore, small_data: Path) -> None:
    before = (trained / "finetune" / "state.pt").stat().st_mtime_ns
    done = tinyvit(*train_arguments(trained, small_store.location, small_data))
    assert done.returncode == 0, done.stderr
    assert (trained / "finetune" / "state.pt").stat().st_mtime_ns == before


def test_a_run_folder_of_another_recipe_is_refused(trained: Path, small_store: LogitStore, small_data: Path) -> None:
    done = tinyvit(*train_arguments(trained, small_store.location, small_data), "--set", "stages.distill.lr=0.5")
    assert done.returncode == 2
    assert "holds a stage of another recipe" in done.stderr


def test_evaluate_and_export_agree_with_training(trained: Path, small_data: Path, tmp_path: Path) -> None:
    recorded = json.loads((trained / "finetune" / "result.json").read_text())["val"]["top1"]
    out = tmp_path / "exported"
    exported = tinyvit("export", trained / "finetune", out, "--json")
    assert exported.returncode == 0, exported.stderr
    assert {f.name for f in out.iterdir()} == {
        "model.safetensors", "config.json", "classes.txt", "recipe.yaml", "README.md",
    }  # fmt: skip
    done = tinyvit("evaluate", out, "--data", small_data / "val", "--json")
    assert json.loads(done.stdout)["top1"] == pytest.approx(recorded, abs=0.5)


def test_training_on_labels_needs_no_store(small_data: Path, tmp_path: Path) -> None:
    done = tinyvit(
        "train",
        "example",
        "--run-dir",
        tmp_path,
        "--stage",
        "finetune",
        "--json",
        *small_arguments(small_data),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["finetune"]["last"]["images"] == 500
