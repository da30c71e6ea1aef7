"""What is refused before a stage begins, and what is gone on with where nobody could know."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from support import EXAMPLE, SMALL, samples_of, tinyvit, torchrun
from torch import nn

from tinyvit.config import Recipe, load_recipe
from tinyvit.data.location import resolve_data
from tinyvit.datasets.make import write_shards
from tinyvit.datasets.sources import SourceImage
from tinyvit.errors import UserError
from tinyvit.runtime.distributed import World
from tinyvit.runtime.progress import LogProgress
from tinyvit.tasks.classification import ClassificationTask
from tinyvit.tasks.run import open_run
from tinyvit.training.beforehand import lone_norms, refuse_untrainable
from tinyvit.training.model_runner import ModelRunner, synchronised
from tinyvit.training.run import Run
from tinyvit.training.train import train as run_stages
from tinyvit.training.train import train_stage

ONE_EPOCH = (*SMALL, "stages.finetune.epochs=1", "stages.finetune.warmup_epochs=0", "data.broken=skip")


def shard(folder: Path, count: int, broken: Sequence[int]) -> Path:
    """A shard of so many images of the example, some of which cannot be decoded."""
    images = [
        SourceImage(s.key, "png", s.image[:200] if n in broken else s.image, s.label or 0)
        for n, s in enumerate(samples_of(EXAMPLE / "train")[:count])
    ]
    write_shards(images, folder, classes=list("abcdefghij"), per_shard=100, seed=0, progress=LogProgress())
    return folder


def opened(data: Path, folder: Path, *changes: str) -> Run[Any]:
    recipe = resolve_data(load_recipe("example", (*ONE_EPOCH, *changes)), data)
    return open_run(recipe, folder, ["finetune"], 0, LogProgress(), World(device=torch.device("cpu")))


def finetuned(data: Path, folder: Path, *changes: str) -> dict[str, Any]:
    return train_stage(opened(data, folder, *changes), "finetune", None)


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        (["engine.micro_batch=1"], True),
        (["stages.finetune.batch_size=3", "engine.micro_batch=2"], True),
        (["engine.micro_batch=2"], False),
        (["engine.micro_batch=1", "stages.finetune.eval_batch_norm=true"], False),
        # Its coarsest map is of 2 x 2 places.
        (["engine.micro_batch=1", "student.kwargs.img_size=64"], False),
    ],
)
def test_a_single_view_at_batch_norm_is_refused(
    changes: list[str], refused: bool, small_data: Path, tmp_path: Path
) -> None:
    run = opened(small_data, tmp_path / "run", *changes)
    task = ClassificationTask(run, "finetune", None)
    if not refused:
        refuse_untrainable(run, "finetune", task)
        return
    with pytest.raises(
        UserError, match=r"batch norm \(stages.3.downsample.conv2.bn\) has a single value to learn from"
    ):
        train_stage(run, "finetune", None)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "size"), [("tiny_vit_5m_224", 32), ("resnet10t", 32), ("levit_128s", 224),
                                            ("mobilenetv3_small_050", 224)])  # fmt: skip
def test_torch_refuses_what_is_refused(name: str, size: int) -> None:
    """The rule is torch's own."""
    network, image = timm.create_model(name, num_classes=4).train(), torch.randn(1, 3, size, size)
    alone = lone_norms(network, image)
    assert network.training
    try:
        network(image)
    except ValueError:
        assert alone
    else:
        assert not alone


def test_a_part_that_is_left_with_one_view_or_none_is_gone_on_with(tmp_path: Path) -> None:
    data = shard(tmp_path / "data", 12, broken=(0, 1, 4, 6, 9))
    few = ("stages.finetune.batch_size=4", "engine.micro_batch=2", "engine.log_steps=1")
    result = finetuned(data, tmp_path / "run", *few)
    assert (result["last"]["images"], result["skipped"]) == (7, 5)
    assert math.isfinite(result["last"]["loss"])
    # Where batch norm keeps its statistics anyway, parts change nothing but rounding.
    still = "stages.finetune.eval_batch_norm=true"
    parts = finetuned(data, tmp_path / "parts", *few, still)
    whole = finetuned(data, tmp_path / "whole", few[0], still)
    assert parts["last"]["loss"] == pytest.approx(whole["last"]["loss"], rel=1e-4)


def test_ranks_wait_for_one_that_has_no_view(tmp_path: Path) -> None:
    data = shard(tmp_path / "data", 12, broken=(0, 1, 4, 6, 9))
    changes = (*ONE_EPOCH, "stages.finetune.batch_size=4", "engine.micro_batch=1", "engine.log_steps=1",
               "stages.finetune.eval_batch_norm=true")  # fmt: skip
    arguments = ["example", "--data", data, "--stage", "finetune", "--workers", "0", "--json",
                 *(part for change in changes for part in ("--set", change))]  # fmt: skip
    two = subprocess.run(torchrun(*arguments, "--run-dir", tmp_path / "two"), capture_output=True, text=True,
                         timeout=200, check=False)  # fmt: skip
    assert two.returncode == 0, two.stderr[-3000:]
    one = tinyvit("train", *arguments, "--run-dir", tmp_path / "one")
    assert one.returncode == 0, one.stderr
    found = [json.loads(done.stdout)["finetune"] for done in (one, two)]
    assert [(result["last"]["images"], result["skipped"]) for result in found] == [(7, 5), (7, 5)]
    assert found[1]["last"]["loss"] == pytest.approx(found[0]["last"]["loss"], rel=1e-3)


def test_steps_without_any_view_stop_the_stage(tmp_path: Path) -> None:
    data = shard(tmp_path / "data", 8, broken=range(8))
    with pytest.raises(UserError, match="of the last 2 steps no view can be learned, 8 were skipped; look at them"):
        finetuned(data, tmp_path / "run", "stages.finetune.batch_size=4")


def test_batch_norm_keeps_its_statistics_for_too_few_views(small_recipe: Recipe) -> None:
    norm = nn.BatchNorm1d(2)
    network = ModelRunner(
        norm, small_recipe.engine, World(device=torch.device("cpu")), eval_batch_norm=False, fixed_input_size=True
    )
    network.train()
    with network.accumulate(last=True, few=True):
        assert torch.allclose(network(torch.ones(1, 2)), torch.ones(1, 2))
    assert norm.running_mean is not None
    assert norm.running_mean.tolist() == [0, 0]
    with network.accumulate(last=True, few=False):
        network(torch.rand(4, 2))
    assert all(norm.running_mean > 0)


def test_memory_that_there_is_not_is_one_line(small_recipe: Recipe) -> None:
    network = ModelRunner(nn.Linear(2, 2), small_recipe.engine, World(device=torch.device("cpu")), False, True)
    with (
        pytest.raises(UserError, match=r"does not fit into the memory of cpu; set engine.micro_batch, or lower it"),
        network.accumulate(last=True, few=False),
    ):
        raise torch.OutOfMemoryError


def test_synchronised_batch_norm_keeps_the_activations() -> None:
    network = timm.create_model("efficientnet_b0", num_classes=4).eval()
    image = torch.randn(1, 3, 64, 64)
    before = network(image)
    changed = synchronised(network)
    assert any(isinstance(layer, nn.SyncBatchNorm) for layer in changed.modules())
    assert torch.allclose(changed(image), before)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("stages.finetune.batch_size=600", "stage finetune: no whole batch of 600 in 500 images"),
        ("engine.micro_batch=1", r"stage finetune: .* has a single value to learn from"),
    ],
)
def test_what_a_later_stage_cannot_begin_with_is_said_before_the_first(
    change: str, line: str, small_data: Path, tmp_path: Path
) -> None:
    recipe = resolve_data(load_recipe("example", (*SMALL, "stages.distill.eval_batch_norm=true", change)), small_data)
    first = recipe.stages["finetune"].model_copy(update={"eval_batch_norm": True, "batch_size": 50})
    recipe = recipe.model_copy(update={"stages": {"first": first, "finetune": recipe.stages["finetune"]}})
    run = open_run(recipe, tmp_path / "run", ["first", "finetune"], 0, LogProgress())
    with pytest.raises(UserError, match=line):
        next(run_stages(run, ["first", "finetune"]))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("size", ["[32,48]", "32.0", "'32'", "0", "-32", "true"])
def test_a_size_that_is_no_square_of_pixels_is_refused(size: str) -> None:
    with pytest.raises(UserError, match=r"student.kwargs: img_size is .*; views are square: give the pixels of a side"):
        load_recipe("example", [f"student.kwargs.img_size={size}"])


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            ["student.name=resnet10t", "student.kwargs={pretrained_cfg_overlay: {input_size: [3, 32, 48]}}"],
            "the network was built for images of 48 x 32; views are square",
        ),
        (
            ["student.name=efficientformer_l1", "student.kwargs={img_size: 64}"],
            r"efficientformer_l1 takes no image of 64 x 64 \(RuntimeError",
        ),
        (
            ["student.name=vit_tiny_patch16_224", "student.kwargs={depth: many}"],
            "timm cannot make vit_tiny_patch16_224 with .* change student.kwargs",
        ),
    ],
)
def test_a_student_that_takes_no_views_is_refused(
    changes: list[str], line: str, small_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=line):
        finetuned(small_data, tmp_path / "run", *changes)
    assert not (tmp_path / "run").exists()
