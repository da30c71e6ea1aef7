"""Every recipe that comes with the package: it loads, says what it is for, and trains."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
import timm
import yaml

from tinyvit.config import LabelStage, load_recipe, recipe_names
from tinyvit.data.index import index_shards
from tinyvit.data.location import resolve_data
from tinyvit.errors import UserError
from tinyvit.models.teachers import Teacher
from tinyvit.runtime.progress import LogProgress
from tinyvit.tasks.run import open_run
from tinyvit.tasks.signals import LiveSignals
from tinyvit.training.train import train

TINY = (
    "student.name=tiny_vit_5m_224",
    "student.checkpoint=null",
    "student.kwargs={img_size: 32, embed_dims: [16, 32, 48, 64], depths: [1, 1, 1, 1], num_heads: [1, 1, 2, 2]}",
    "engine.micro_batch=128",
)


# Those for contraction have the stages of their bases; detectors are trained in tests/tinyvit/detection.
CLASSIFIERS = [n for n in recipe_names() if not (load_recipe(n).contraction or load_recipe(n).detection)]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_recipe_trains_two_steps(name: str, small_data: Path, teacher: Teacher, tmp_path: Path) -> None:
    stages = load_recipe(name).stages
    short = [
        f"stages.{stage}.{change}"
        for stage in stages
        for change in ("epochs=1", "warmup_epochs=0.5", "batch_size=250", "missing=error")
    ]
    short += [
        f"stages.{name}.train={small_data / 'train'}"
        for name, stage in stages.items()
        if isinstance(stage, LabelStage) and stage.train
    ]
    labels = ("label.input_size=32",) if load_recipe(name).labelling else ()
    recipe = resolve_data(load_recipe(name, (*TINY, *labels, *short)), small_data)
    run = open_run(recipe, tmp_path, list(stages), 0, LogProgress())
    run = replace(run, signals=LiveSignals(teacher, recipe.label) if recipe.labelling else None)
    for result in train(run, list(stages)):
        assert result["last"]["images"] == 500


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_says_what_it_takes_and_what_comes_of_it(name: str) -> None:
    recipe = load_recipe(name)
    assert timm.is_model(recipe.student.name)
    text = (resources.files("tinyvit") / "recipes" / f"{name}.yaml").read_text()
    comment = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#")).lower()
    for word in ("tinyvit train", "hardware", "time", "result"):
        assert word in comment, word


@pytest.mark.parametrize(("name", "labelled"), [("few-labels", None), ("few-labels-example", 250)])
def test_a_student_and_its_twin_on_labels_take_as_many_steps(name: str, labelled: int | None) -> None:
    recipe = load_recipe(name)
    images = 60_000
    if labelled:
        images = sum(index_shards(recipe.data.train, LogProgress()).counts)
        for stage in ("finetune", "labels"):
            of_labels = recipe.stages[stage]
            assert isinstance(of_labels, LabelStage)
            assert sum(index_shards(str(of_labels.train), LogProgress()).counts) == labelled
    # Of few-labels the labelled images are repeated until there are as many of them as of all.
    of = {"distill": images, "finetune": labelled or images, "labels": labelled or images}
    steps = {stage: recipe.stages[stage].epochs * (of[stage] // recipe.stages[stage].batch_size) for stage in of}
    assert steps["distill"] + steps["finetune"] == steps["labels"]
    assert {recipe.stages[stage].batch_size for stage in of} == {125}


def test_the_papers_figures() -> None:
    """Of configs/ in the paper's code."""
    for size, drop_path in (("5m", 0.0), ("11m", 0.1), ("21m", 0.1)):
        recipe = load_recipe(f"in22k-distill-{size}")
        stage = recipe.stages["pretrain"]
        assert (recipe.label.epochs, recipe.label.top_k, recipe.label.augment.mixes) == (90, 100, False)
        assert (stage.epochs, stage.batch_size, stage.weight_decay, stage.clip_grad) == (90, 4096, 0.01, 5.0)
        assert (stage.lr * stage.lr_scale, stage.warmup_epochs) == pytest.approx((2e-3, 5))
        assert recipe.student.kwargs["drop_path_rate"] == drop_path
        tuned = load_recipe(f"in22k-to-in1k-{size}").stages["finetune"]
        assert isinstance(tuned, LabelStage)
        assert (tuned.epochs, tuned.layer_decay, tuned.eval_batch_norm) == (30, 0.8, True)
        scratch = load_recipe(f"in1k-scratch-{size}")
        assert (scratch.stages["scratch"].epochs, scratch.augment_of(scratch.stages["scratch"]).mixes) == (300, True)
        distilled = load_recipe(f"in1k-distill-{size}")
        assert (distilled.label.epochs, distilled.label.top_k, distilled.label.augment.mixes) == (300, 10, True)
    augment = load_recipe("in22k-distill-5m").label.augment
    assert (augment.auto_augment, augment.color_jitter, augment.erase_prob, augment.interpolation) == (
        "rand-m9-mstd0.5-inc1", 0.4, 0.25, "bicubic",
    )  # fmt: skip


def test_a_recipe_says_only_what_differs_from_its_base(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("base: example\nstages:\n  finetune: null\n  distill: {epochs: 3}\nengine: {log_steps: 7}\n")
    recipe, example = load_recipe(str(mine)), load_recipe("example")
    assert list(recipe.stages) == ["distill"]
    assert recipe.stages["distill"].epochs == 3
    assert recipe.stages["distill"].lr == example.stages["distill"].lr
    assert recipe.label == example.label
    (tmp_path / "next.yaml").write_text("base: mine.yaml\nengine: {log_steps: 9}\n")
    assert load_recipe(str(tmp_path / "next.yaml")).engine.log_steps == 9
    mine.write_text("base: next.yaml\n")
    with pytest.raises(UserError, match=r"is based on itself: .*mine.yaml -> .*next.yaml -> .*mine.yaml"):
        load_recipe(str(mine))


def test_a_colour_is_no_comment(tmp_path: Path) -> None:
    assert load_recipe("example", ["data.background=#808080"]).data.background == "#808080"
    (tmp_path / "r.yaml").write_text("base: example\ndata:\n  background: #808080\n")
    with pytest.raises(UserError, match="is a comment to YAML; quote it"):
        load_recipe(str(tmp_path / "r.yaml"))
    (tmp_path / "r.yaml").write_text("base: example\ndata:\n  background: '#808080'\n")
    assert load_recipe(str(tmp_path / "r.yaml")).data.background == "#808080"


def test_what_goes_with_another_target_is_refused_by_its_name() -> None:
    for change, told in {
        "stages.distill.label_smoothing=0.1": "stages.distill.label_smoothing: a stage on a teacher has no field",
        "stages.finetune.label_weight=0.5": "stages.finetune.label_weight: a stage on labels has no field label_weight",
        "stages.distill.topk=5": r"stages.distill.topk: a stage on a teacher has no field topk; did you mean top_k\?",
        "stages.finetune.colour=5": "stages.finetune.colour: a stage on labels has no field colour; remove it",
        "label.augment.scal=5": r"label.augment.scal: augment has no field scal; did you mean scale\?",
        "stage.distill.lr=1": r"stage: a recipe has no field stage; did you mean stages\?",
        "engine.a.b=1": "engine.a: engine has no field a; remove it",
        "stages.distil.lr=1": r"stages.distil: a stage needs a target; did you mean distill\?",
        "stages.last.lr=1": "stages.last: a stage needs a target; give it one of teacher, labels, boxes",
        "stages.finetune.target=boxes": "stages.finetune.label_smoothing: a stage on boxes has no field",
        "stages.finetune.target=label": r"stages.finetune: there is no target 'label'; did you mean labels\?",
        "stages.finetune.target=points": "stages.finetune: there is no target 'points'; choose one of teacher, labels",
        "stages.finetune.lr=-1": "stages.finetune.lr: Input should be greater than 0",
        "stages.finetune.warmup_epochs=99": "stages.finetune: warmup_epochs 99.0 leaves nothing of epochs",
    }.items():
        with pytest.raises(UserError, match=f"recipe example: {told}"):
            load_recipe("example", [change])


def test_a_stage_beside_one_that_yaml_takes_for_a_number_is_told(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("base: example\nstages: {last: {lr: 1}, 2: {target: labels}}\n")
    with pytest.raises(UserError, match=r"stages\.last: a stage needs a target"):
        load_recipe(str(tmp_path / "r.yaml"))


def test_a_record_is_a_recipe_again(tmp_path: Path) -> None:
    for name in recipe_names():
        recipe = load_recipe(name)
        (tmp_path / "again.yaml").write_text(yaml.safe_dump(recipe.record()))
        assert load_recipe(str(tmp_path / "again.yaml")) == recipe
