"""The training engine in one process: what each setting does, shown by what it changes and what it does not."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import SMALL, label_all, samples_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from logitstore import LogitStore
from tinyvit.config import Recipe, load_recipe
from tinyvit.data.location import resolve_data
from tinyvit.errors import Stopped, UserError
from tinyvit.models import load_weights
from tinyvit.models.teachers import Teacher, load_teacher
from tinyvit.runtime.distributed import World
from tinyvit.runtime.progress import LogProgress
from tinyvit.tasks.distillation import DistillationTask
from tinyvit.tasks.run import open_run
from tinyvit.tasks.signals import LiveSignals, StoredSignals
from tinyvit.training.metric_logger import read_lines
from tinyvit.training.step_meter import EpochTotals, StepMeter
from tinyvit.training.train import train as run_stages
from tinyvit.training.train import train_stage
from tinyvit.views.pixels import normalise

LOG = "engine.log_steps=2"

Train = Callable[..., dict[str, Any]]


@pytest.fixture
def train(small_data: Path, small_store: LogitStore, tmp_path: Path) -> Train:
    """Train a stage of the small recipe in this process, on its first 250 images, with changes; returns the result."""

    def run(name: str, *changes: str, folder: str = "run", data: Path = small_data, **options: Any) -> dict[str, Any]:
        recipe = load_recipe(
            "example", (*SMALL, f"stages.{name}.epochs=1", f"stages.{name}.warmup_epochs=0.2", LOG, *changes)
        )
        opened = open_run(resolve_data(recipe, data), tmp_path / folder, [name], 0, LogProgress())
        return train_stage(replace(opened, **{"signals": StoredSignals(small_store), **options}), name, None)

    return run


class After:
    """A wish to stop that is there at its nth question."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def is_set(self) -> bool:
        self.left -= 1
        return self.left == 0


def losses(folder: Path) -> list[float]:
    """The losses in a stage's journal."""
    return [line["loss"] for line in read_lines(folder / "metrics.jsonl")]


@pytest.mark.parametrize(("seconds", "told"), [(1e9, [1, 3, 4]), (0.0, [1, 2, 3, 4])])
def test_short_epochs_are_not_told_one_by_one(
    train: Train, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, seconds: float, told: list[int]
) -> None:
    monkeypatch.setattr("tinyvit.training.trainer.TOLD_SECONDS", seconds)
    with caplog.at_level("INFO", "tinyvit"):
        train("finetune", "stages.finetune.epochs=4", "engine.val_interval=3")
    assert [int(number) for number in re.findall(r"finetune: epoch (\d+): loss", caplog.text)] == told
    assert len(re.findall(r"epoch \d+: loss .*, val top-1 ", caplog.text)) == 2


@pytest.mark.parametrize(
    ("change", "tolerance"),
    [
        ("engine.grad_checkpointing=true", 1e-5),
        ("engine.deterministic=true", 1e-5),
        ("engine.precision=bfloat16", 0.05),
        ("engine.precision=float16", 0.05),
    ],
)
def test_how_it_is_computed_does_not_change_what_is_learned(
    train: Train, tmp_path: Path, change: str, tolerance: float
) -> None:
    train("distill", folder="plain")
    train("distill", change, folder="changed")
    plain, changed = (losses(tmp_path / name / "distill") for name in ("plain", "changed"))
    assert len(plain) == 5
    assert changed == pytest.approx(plain, rel=tolerance)


def test_compiled_it_learns_the_same(at_length: None, train: Train, tmp_path: Path) -> None:
    test_how_it_is_computed_does_not_change_what_is_learned(train, tmp_path, "engine.compile=true", 1e-4)


def test_accumulated_gradients_are_those_of_the_whole_step(train: Train, tmp_path: Path) -> None:
    # Batch norm sees a part at a time; with its statistics kept, nothing but rounding is left.
    still = "stages.finetune.eval_batch_norm=true"
    train("finetune", still, folder="whole")
    train("finetune", still, "engine.micro_batch=17", folder="parts")
    whole, parts = (losses(tmp_path / name / "finetune") for name in ("whole", "parts"))
    assert parts == pytest.approx(whole, rel=1e-4)


def test_batch_norm_in_eval_mode_keeps_its_statistics_and_trains_its_scale(train: Train, tmp_path: Path) -> None:
    train("finetune", "stages.finetune.eval_batch_norm=true")
    weights = load_weights(tmp_path / "run" / "finetune")
    assert all((value == 0).all() for name, value in weights.items() if name.endswith("running_mean"))
    assert not torch.equal(weights["patch_embed.conv1.bn.weight"], torch.ones(16))


def test_layer_decay_slows_the_layers_below(train: Train, tmp_path: Path) -> None:
    train("finetune", "stages.finetune.lr=1e-12", folder="start")
    train("finetune", "stages.finetune.layer_decay=0.1", folder="decayed")
    start, after = (load_weights(tmp_path / name / "finetune") for name in ("start", "decayed"))
    moved = {name: (after[name] - start[name]).abs().max() for name in start}
    assert moved["patch_embed.conv1.conv.weight"] < 1e-4 * moved["head.fc.weight"]


def test_the_average_is_what_is_evaluated_and_kept(train: Train, tmp_path: Path) -> None:
    train("finetune", folder="plain")
    train("finetune", "stages.finetune.ema=0.9", folder="averaged")
    states = [torch.load(tmp_path / n / "finetune" / "state.pt", weights_only=True) for n in ("plain", "averaged")]
    kept = load_weights(tmp_path / "averaged" / "finetune")
    assert torch.equal(states[0]["model"]["head.fc.weight"], states[1]["model"]["head.fc.weight"])
    assert torch.equal(states[1]["optimiser"]["average"]["head.fc.weight"], kept["head.fc.weight"])
    assert not torch.equal(states[1]["model"]["head.fc.weight"], kept["head.fc.weight"])


def test_rates_grow_with_the_batch_where_they_are_for_another(train: Train, tmp_path: Path) -> None:
    train("finetune", folder="as given")
    train("finetune", "stages.finetune.lr_base_size=25", folder="for 25")
    given, grown = (
        [line["lr"] for line in read_lines(tmp_path / name / "finetune" / "metrics.jsonl")]
        for name in ("as given", "for 25")
    )
    assert grown == pytest.approx([2 * rate for rate in given])
    assert max(given) > 0


def test_answers_and_labels_weigh_what_the_recipe_says(train: Train, small_data: Path, tmp_path: Path) -> None:
    """A student of ten classes teaches another; its logits and the labels add up by their weights."""
    with pytest.raises(UserError, match=r"the data's class 'T-shirt/top' \(label 0\) is none of the teacher's 1000"):
        train("distill", "stages.distill.label_weight=0.25", folder="refused")
    train("finetune")
    name = f"timm:local-dir:{tmp_path / 'run' / 'finetune'}"
    changes = (f"label.teacher={name}", "label.top_k=10", "label.epochs=1", "label.epochs_per_unit=1")
    own = load_teacher(name, torch.device("cpu"))
    store = label_all(resolve_data(load_recipe("example", (*SMALL, *changes)), small_data), tmp_path / "own", own)
    first = {}
    for weight in (0.0, 0.25, 0.75):
        folder = f"weight {weight}"
        changed = (*changes, f"stages.distill.label_weight={weight}", "engine.log_steps=1")
        result = train("distill", *changed, folder=folder, signals=StoredSignals(store))
        first[weight] = losses(tmp_path / folder / "distill")[0]
    assert first[0.75] - first[0.0] == pytest.approx(3 * (first[0.25] - first[0.0]), rel=1e-3)
    assert abs(first[0.25] - first[0.0]) > 1e-3
    # The teacher's classes are those of the images: a stage on its logits is evaluated too.
    assert result["val"]["images"] == 250
    # The same images, whose labels are numbered in another order: what they mean is what is learned, and counted.
    other = renumbered(small_data, tmp_path / "other")
    recipe = resolve_data(load_recipe("example", (*SMALL, *changes)), other)
    relabelled = StoredSignals(label_all(recipe, tmp_path / "other store", own))
    again = train("distill", *changed, folder="other", data=other, signals=relabelled)
    assert losses(tmp_path / "other" / "distill") == losses(tmp_path / folder / "distill")
    assert again["val"]["top1"] == result["val"]["top1"] > 15


def renumbered(data: Path, out: Path) -> Path:
    """A copy of shards whose classes have their numbers in reverse."""
    names = (data / "train" / "classes.txt").read_text().splitlines()
    copied(data, out, lambda name, content: str(9 - int(content)).encode() if name.endswith(".cls") else content)
    for part in ("train", "val"):
        (out / part / "classes.txt").write_text("".join(f"{name}\n" for name in reversed(names)))
    return out


def copied(data: Path, out: Path, change: Callable[[str, bytes], bytes]) -> None:
    """A copy of shards whose members are changed."""
    for shard in data.glob("*/*.tar"):
        (out / shard.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(shard.parent / "classes.txt", out / shard.parent.name)
        with tarfile.open(shard) as old, tarfile.open(out / shard.parent.name / shard.name, "w") as new:
            for member in old:
                content = change(member.name, old.extractfile(member).read())  # type: ignore[union-attr]
                member.size = len(content)
                new.addfile(member, io.BytesIO(content))


def test_a_stage_on_labels_may_have_shards_of_its_own(
    train: Train, small_data: Path, small_store: LogitStore, tmp_path: Path
) -> None:
    own = tmp_path / "labelled"
    own.mkdir()
    shutil.copy(sorted((small_data / "train").glob("*.tar"))[1], own)
    shutil.copy(small_data / "train" / "classes.txt", own)
    changes = ("stages.finetune.batch_size=125", "stages.finetune.epochs=1", "stages.finetune.warmup_epochs=0.2")
    recipe = resolve_data(load_recipe("example", (*SMALL, *changes, f"stages.finetune.train={own}")), small_data)
    opened = open_run(recipe, tmp_path / "both", ["distill", "finetune"], 0, LogProgress())
    whole = replace(opened, signals=StoredSignals(small_store))
    answers, labels = run_stages(whole, ["distill", "finetune"])
    # Two shards of 250 are distilled, one is learned the labels of.
    assert answers["last"]["images"] == 500
    assert labels["last"]["images"] == 250
    # It is the stage that it would be with these shards as the recipe's.
    train("finetune", *changes, f"stages.finetune.train={own}")
    train("finetune", *changes, data=own, folder="other")
    digests = [
        json.loads((tmp_path / folder / "finetune" / "result.json").read_text())["digest"]
        for folder in ("run", "other")
    ]
    assert digests[0] == digests[1]
    with pytest.raises(UserError, match=r"stages\.distill\.train: a stage on a teacher has no field train; remove it"):
        load_recipe("example", ["stages.distill.train=x"])


def test_a_broken_image_of_validation_is_skipped_and_counted_or_refused_before_the_first_step(
    train: Train, small_data: Path, tmp_path: Path
) -> None:
    key = samples_of(small_data / "val")[7].key
    copied(
        small_data,
        tmp_path / "data",
        lambda name, content: content[:80] if name.startswith(key) and name.endswith(".png") else content,
    )
    with pytest.raises(UserError, match=rf"{key} cannot be decoded .*data.broken=skip"):
        train("finetune", folder="refused", data=tmp_path / "data")
    assert not [*(tmp_path / "refused").rglob("metrics.jsonl")]
    result = train("finetune", "data.broken=skip", data=tmp_path / "data")
    assert (result["val"]["images"], result["val"]["broken"]) == (249, 1)


def diverging(step: int, times: int = 1) -> Callable[..., Any]:
    """DistillationTask.learn with a loss that is not a number in some steps from `step` on."""
    learn, seen = DistillationTask.learn, [0]

    def broken(task: DistillationTask, network: Any, batch: Any) -> Any:
        loss, agreed = learn(task, network, batch)
        seen[0] += 1
        return (loss * float("nan") if step <= seen[0] < step + times else loss), agreed

    return broken


def test_a_loss_that_is_not_finite_stops_with_its_views(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DistillationTask, "learn", diverging(5))
    with pytest.raises(UserError, match=r"step 5: the loss of train-00000\d.tar: train-\d+ and others") as caught:
        train("distill", "engine.save_minutes=0")
    file = tmp_path / "run" / "distill" / "non_finite-rank0.txt"
    assert str(file) in str(caught.value)
    named = file.read_text().splitlines()
    assert len(set(named)) == 50
    # What was saved lies before it: steps are looked at before a state is kept.
    saved = torch.load(tmp_path / "run" / "distill" / "state.pt", weights_only=True)
    assert saved["step"] == 4
    assert all(value.isfinite().all() for value in saved["model"].values() if value.is_floating_point())


def test_a_step_that_is_not_finite_can_be_left_out(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DistillationTask, "learn", diverging(5))
    result = train("distill", "stages.distill.non_finite=skip")
    assert result["dropped_steps"] == 1
    assert result["last"]["images"] == 450
    weights = load_weights(tmp_path / "run" / "distill")
    assert all(value.isfinite().all() for value in weights.values() if value.is_floating_point())


def test_a_step_that_is_left_out_leaves_no_trace_in_batch_norm(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = [0]

    def overflowing(*arguments: Any) -> torch.Tensor:
        seen[0] += 1
        return normalise(*arguments) * (float("inf") if seen[0] == 5 else 1.0)

    monkeypatch.setattr("tinyvit.tasks.student.normalise", overflowing)
    result = train("distill", "stages.distill.non_finite=skip")
    assert result["dropped_steps"] == 1
    weights = load_weights(tmp_path / "run" / "distill")
    assert all(value.isfinite().all() for value in weights.values() if value.is_floating_point())
    assert {int(value) for name, value in weights.items() if name.endswith("num_batches_tracked")} == {9}


def test_nothing_but_steps_that_are_not_finite_is_an_error_also_then(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DistillationTask, "learn", diverging(5, times=100))
    with pytest.raises(UserError, match="is not finite"):
        train("distill", "stages.distill.non_finite=skip")


def test_stopping_saves_and_the_same_run_goes_on_to_the_same_weights(train: Train, tmp_path: Path) -> None:
    drop = "student.kwargs.drop_path_rate=0.2"
    whole = train("distill", drop, folder="whole")
    with pytest.raises(Stopped, match="stopped and saved after epoch 0 and 4 steps"):
        train("distill", drop, stop=After(4))
    journal = tmp_path / "run" / "distill" / "metrics.jsonl"
    journal.write_text(journal.read_text() + '{"step": 6, "loss": 1.0}\n{"step": 7, "lo')
    resumed = train("distill", drop)
    for name in ("loss", "agreement", "images", "lr"):
        assert resumed["last"][name] == whole["last"][name]
    one, two = (load_weights(tmp_path / folder / "distill") for folder in ("whole", "run"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    # Lines of steps that were done again are there once.
    assert [line["step"] for line in read_lines(journal)] == [2, 4, 6, 8, 10]


@pytest.mark.parametrize("name", ["distill", "finetune"])
def test_several_views_a_reading_are_as_many_steps_and_go_on_anywhere(train: Train, tmp_path: Path, name: str) -> None:
    changes = [f"stages.{name}.epochs=3", f"stages.{name}.views_per_read=2"]
    whole = train(name, *changes, folder="whole")
    # The third epoch is a reading of its own.
    with pytest.raises(Stopped, match="after epoch 1 and 4 steps"):
        train(name, *changes, stop=After(14))
    resumed = train(name, *changes)
    assert resumed["last"]["images"] == whole["last"]["images"] == 500
    assert resumed["last"]["loss"] == whole["last"]["loss"]
    one, two = (load_weights(tmp_path / folder / name) for folder in ("whole", "run"))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_batch_that_lanes_cannot_share_is_refused(train: Train) -> None:
    with pytest.raises(UserError, match=r"batch_size of 50 cannot be shared out to data\.lanes=7; give a multiple"):
        train("distill", "data.lanes=7")


def test_told_to_stop_while_no_batch_comes_it_saves_too(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train("distill", folder="whole")
    given, real = iter(range(3)), StepMeter.next_batch

    def none_comes(meter: StepMeter, batches: Iterator[Any]) -> Any:
        if next(given, None) is None:
            raise Stopped("told to stop while it waited for data")
        return real(meter, batches)

    monkeypatch.setattr(StepMeter, "next_batch", none_comes)
    with pytest.raises(
        Stopped, match="stage distill: told to stop while it waited for data, after epoch 0 and 3 steps"
    ):
        train("distill")
    monkeypatch.undo()
    resumed = train("distill")
    for name in ("loss", "agreement", "images", "lr"):
        assert resumed["last"][name] == whole["last"][name]


@pytest.mark.parametrize("precisions", [("float32", "float16"), ("float16", "float32")])
def test_a_stage_goes_on_in_another_precision(train: Train, precisions: tuple[str, str]) -> None:
    with pytest.raises(Stopped):
        train("distill", f"engine.precision={precisions[0]}", stop=After(2))
    assert train("distill", f"engine.precision={precisions[1]}")["last"]["images"] == 500


def test_metrics_are_lines_and_curves(train: Train, tmp_path: Path) -> None:
    result = train("finetune")
    folder = tmp_path / "run" / "finetune"
    lines = read_lines(folder / "metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10]
    assert {"epoch", "loss", "train_top1", "lr", "grad_norm", "images_per_s", "waiting_for_data", "memory_mib"} <= {
        *lines[0]
    }
    assert np.mean([line["loss"] for line in lines]) == pytest.approx(result["last"]["loss"])
    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("loss")] == [2, 4, 6, 8, 10]
    assert board.Scalars("val_top1")[0].value == pytest.approx(result["val"]["top1"])
    assert result["best"]["epoch"] == 1
    assert (folder / "best" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_weights_and_biases_is_written_where_asked_for(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    train("finetune", wandb="tinyvit-test")
    assert list((tmp_path / "run" / "finetune" / "wandb").glob("offline-run-*/run-*.wandb"))

    def refuse(**_options: Any) -> None:
        raise RuntimeError("api_key not configured (no-tty)")

    monkeypatch.setattr("wandb.init", refuse)
    with pytest.raises(UserError, match=r"Weights & Biases cannot be written to .* run wandb login first"):
        train("finetune", folder="other", wandb="tinyvit-test")


def test_a_live_teacher_gives_the_losses_of_an_exact_store(
    small_recipe: Recipe, teacher: Teacher, small_data: Path, tmp_path: Path, train: Train
) -> None:
    exact = resolve_data(load_recipe("example", (*SMALL, "label.encoding=exact")), small_data)
    store = label_all(exact, tmp_path / "exact", teacher)
    changes = ("label.encoding=exact", "engine.log_steps=1")
    train("distill", *changes, folder="stored", signals=StoredSignals(store))
    train("distill", *changes, folder="online", signals=LiveSignals(teacher, exact.label))
    stored, online = (losses(tmp_path / name / "distill") for name in ("stored", "online"))
    assert online == pytest.approx(stored, rel=2e-4)
    assert json.loads((tmp_path / "online" / "distill" / "record.json").read_text())["online_teacher"] == teacher.name


def test_a_later_stage_without_a_teacher_is_refused_before_the_first_begins(
    small_recipe: Recipe, tmp_path: Path
) -> None:
    stages = ["finetune", "distill"]
    run = open_run(small_recipe, tmp_path / "run", stages, 0, LogProgress())
    with pytest.raises(UserError, match="the stage 'distill' learns from a store; give one"):
        next(run_stages(run, stages))
    assert not (tmp_path / "run").exists()


def test_short_epochs_are_validated_now_and_then_and_at_the_end(train: Train, tmp_path: Path) -> None:
    result = train("finetune", "stages.finetune.epochs=5", "engine.val_interval=2")
    epochs = read_lines(tmp_path / "run" / "finetune" / "epochs.jsonl")
    assert [bool(metrics.get("val")) for metrics in epochs] == [False, True, False, True, True]
    assert result["val"] == epochs[-1]["val"]
    assert result["best"]["top1"] == max(metrics["val"]["top1"] for metrics in epochs if metrics.get("val"))


@dataclass
class Clock:
    """A clock in place of the module `time`."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now


@dataclass(frozen=True)
class Behind(World):
    """A world whose device has two seconds of work left when it is asked for what it counted."""

    clock: Clock = field(default_factory=Clock)

    def all_reduce_sum(self, values: torch.Tensor) -> torch.Tensor:
        self.clock.now += 2
        return values


def test_what_the_device_still_had_to_do_is_time_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("tinyvit.training.step_meter.time", clock)
    meter = StepMeter(Behind(device=torch.device("cpu"), clock=clock), EpochTotals(), scaled=False)
    clock.now += 3
    meter.end_step(torch.ones(()))
    done, _ = meter.synchronise()
    assert done.seconds == 3 + 2
    # Saving, say: no time of theirs.
    clock.now += 100
    meter.restart_clock()
    meter.end_step(torch.ones(()))
    done, _ = meter.synchronise()
    assert done.seconds == 2


def test_no_step_sends_mean_and_std_to_the_device_again(monkeypatch: pytest.MonkeyPatch) -> None:
    views, mean, std, cpu = torch.full((2, 4, 4, 3), 51, dtype=torch.uint8), (0.1, 0.2, 0.3), (0.5, 1.0, 2.0), "cpu"
    with torch.inference_mode():
        first = normalise(views, mean, std, torch.device(cpu))
    monkeypatch.delattr(torch, "tensor")
    pixels = normalise(views, mean, std, torch.device(cpu))
    assert torch.equal(pixels, first)
    assert pixels[0, :, 0, 0].tolist() == pytest.approx([0.2, 0.0, -0.05])
    # What evaluation has made is of use to training.
    scale = torch.ones(3, 1, 1, requires_grad=True)
    (pixels * scale).sum().backward()
    assert scale.grad is not None


def test_a_deterministic_run_is_one_before_a_live_teacher_is_asked(
    small_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    for wanted in (True, False):
        engine = small_recipe.engine.model_copy(update={"deterministic": wanted})
        open_run(small_recipe.model_copy(update={"engine": engine}), tmp_path, ["distill"], 0, LogProgress())
        assert torch.are_deterministic_algorithms_enabled() == wanted
    # torch looks at it once, at the first product of a process.
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
