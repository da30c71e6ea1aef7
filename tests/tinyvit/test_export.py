"""What is exported: loaded by plain timm, ONNX Runtime and torch.export, each with the model's own outputs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from support import small_arguments, tinyvit

from tinyvit.errors import UserError
from tinyvit.export import export_student
from tinyvit.models import load_student


@pytest.fixture(scope="module")
def stage(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs")
    done = tinyvit("train", "example", "--run-dir", run, "--stage", "finetune", *small_arguments(small_data))
    assert done.returncode == 0, done.stderr
    return run / "finetune"


def test_every_form_gives_the_models_answers(stage: Path, tmp_path: Path) -> None:
    out = tmp_path / "student"
    done = tinyvit("export", stage, out, "--onnx", "--program", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["files"] == [
        "README.md", "classes.txt", "config.json", "model.onnx", "model.pt2", "model.safetensors", "recipe.yaml",
    ]  # fmt: skip
    pixels = torch.randn(5, 3, 32, 32)
    with torch.inference_mode():
        wanted = load_student(stage).eval()(pixels)
        program = torch.export.load(out / "model.pt2").module()(pixels)
    (onnx,) = onnxruntime.InferenceSession(out / "model.onnx").run(None, {"pixels": pixels.numpy()})
    assert torch.allclose(program, wanted, atol=1e-5)
    assert np.allclose(onnx, wanted, atol=1e-4)
    assert 0 <= result["largest_difference"]["onnx"] < 1e-4


def test_plain_timm_loads_it_without_us(stage: Path, tmp_path: Path) -> None:
    export_student(stage, tmp_path / "student")
    code = (
        "import sys, timm, torch\n"
        f"model = timm.create_model('local-dir:{tmp_path / 'student'}', pretrained=True).eval()\n"
        "assert not any(name.split('.')[0] in ('tinyvit', 'logitstore', 'tinyvit_flows') for name in sys.modules)\n"
        "print(model(torch.zeros(1, 3, 32, 32)).argmax().item(), model.pretrained_cfg['label_names'][0])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    best, first = done.stdout.split(maxsplit=1)
    with torch.inference_mode():
        assert int(best) == load_student(stage).eval()(torch.zeros(1, 3, 32, 32)).argmax().item()
    assert first.strip() == "T-shirt/top"


def test_the_card_says_where_it_comes_from(stage: Path, tmp_path: Path) -> None:
    export_student(stage, tmp_path / "student")
    card = (tmp_path / "student" / "README.md").read_text()
    val = json.loads((stage / "result.json").read_text())["val"]
    record = json.loads((stage / "record.json").read_text())
    for fact in (
        f"{val['top1']:.1f} %",
        record["recipe_digest"],
        record["libraries"]["torch"],
        "learned from | labels",
        "images read with | orientation exif, background None",
    ):
        assert fact in card
    assert "epochs: 2" in (tmp_path / "student" / "recipe.yaml").read_text()


def test_an_unfinished_stage_and_a_full_folder_are_refused(stage: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a finished stage"):
        export_student(tmp_path, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError, match="is not empty"):
        export_student(stage, tmp_path / "full")
