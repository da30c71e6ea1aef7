"""Teachers by name: what is loaded is what was named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from support import SMALL

from tinyvit.config import Decode, Student, load_recipe
from tinyvit.data.location import resolve_data
from tinyvit.errors import UserError
from tinyvit.evaluation import load_eval_model
from tinyvit.labelling.label import label_store
from tinyvit.models import create_student, save_student
from tinyvit.models.teachers import Fitting, Teacher, load_teacher, weights_digest
from tinyvit.runtime.progress import LogProgress
from tinyvit.tasks.run import open_run
from tinyvit.tasks.signals import LiveSignals
from tinyvit.training.train import train

CPU = torch.device("cpu")
VIEWS = torch.randint(256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_checkpoint_file_gives_the_same_teacher_as_its_source(teacher: Teacher, tmp_path: Path) -> None:
    torch.save(teacher.model.state_dict(), tmp_path / "lite0.pth")
    loaded = load_teacher(f"timm:tf_efficientnet_lite0@{tmp_path / 'lite0.pth'}", CPU, None)
    assert loaded.weights_sha256 == teacher.weights_sha256
    assert loaded.classes == teacher.classes
    assert torch.equal(loaded.logits(VIEWS), teacher.logits(VIEWS))


def test_a_fine_tuned_checkpoint_brings_its_own_number_of_classes(tmp_path: Path) -> None:
    tuned = timm.create_model("resnet10t", num_classes=7).eval()
    torch.save(tuned.state_dict(), tmp_path / "tuned.pth")
    loaded = load_teacher(f"timm:resnet10t@{tmp_path / 'tuned.pth'}", CPU, None)
    assert (loaded.num_classes, loaded.classes) == (7, None)
    assert loaded.weights_sha256 == weights_digest(tuned)

    (tmp_path / "names.txt").write_text("\n".join("abcdefg"))
    named = load_teacher(f"timm:resnet10t@{tmp_path / 'tuned.pth'}", CPU, tmp_path / "names.txt")
    assert named.classes == tuple("abcdefg")
    (tmp_path / "short.txt").write_text("a\nb")
    with pytest.raises(UserError, match="has 2 names"):
        load_teacher(f"timm:resnet10t@{tmp_path / 'tuned.pth'}", CPU, tmp_path / "short.txt")


def test_a_student_of_ours_can_teach(tmp_path: Path) -> None:
    student = Student(name="tiny_vit_5m_224", kwargs={"img_size": 64, "depths": [1, 1, 1, 1]})
    model = create_student(student, num_classes=5, seed=0)
    save_student(tmp_path / "s", model, student, tuple("abcde"), Decode())
    loaded = load_teacher(f"timm:local-dir:{tmp_path / 's'}", CPU, None)
    assert (loaded.num_classes, loaded.input_size) == (5, 64)
    assert loaded.weights_sha256 == weights_digest(model)
    assert loaded.classes == tuple("abcde")


def test_a_misspelt_model_is_told_with_the_one_that_was_meant() -> None:
    for name, meant in {"resnet500": "resnet50", "resnet50.a1_in22k": "resnet50.a1_in1k", "qqq": ""}.items():
        with pytest.raises(UserError, match=f"timm has no model '{name}'; ") as fault:
            load_teacher(f"timm:{name}", CPU, None)
        with pytest.raises(UserError, match=f"timm has no model '{name}'; "):
            create_student(Student(name=name), num_classes=2, seed=0)
        assert f"did you mean {meant} or" in str(fault.value) if meant else "see timm.list_models()" in str(fault.value)


def test_a_folder_that_is_not_there_is_to_be_trained_first(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be had .*; train that network first, or mend the path"):
        load_teacher(f"timm:local-dir:{tmp_path / 'no'}", CPU, None)


def test_a_checkpoint_of_another_model_is_refused(teacher: Teacher, tmp_path: Path) -> None:
    torch.save(teacher.model.state_dict(), tmp_path / "lite0.pth")
    with pytest.raises(UserError, match="does not fit the model resnet10t"):
        load_teacher(f"timm:resnet10t@{tmp_path / 'lite0.pth'}", CPU, None)


def test_one_changed_weight_is_another_teacher(teacher: Teacher) -> None:
    before = weights_digest(teacher.model)
    with torch.no_grad():
        weight = next(teacher.model.parameters())
        kept = weight[0, 0, 0, 0].item()
        weight[0, 0, 0, 0] += 1e-3
        assert weights_digest(teacher.model) != before
        weight[0, 0, 0, 0] = kept
    assert weights_digest(teacher.model) == before


class Hungry(torch.nn.Module):
    """Has memory for so many views."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.asked = most, list[int]()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        self.asked.append(len(pixels))
        if len(pixels) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        return pixels.mean(dim=(2, 3))


MANY = torch.randint(256, (40, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_batches_that_are_too_large_for_the_memory_are_halved_once(teacher: Teacher) -> None:
    small = replace(teacher, num_classes=3)
    whole = replace(small, model=Hungry(100)).logits(MANY)
    hungry = Hungry(11)
    asked = replace(small, model=hungry, fitting=Fitting())
    for _ in range(2):
        assert torch.equal(asked.logits(MANY), whole)
    assert hungry.asked == [40, 20, *[10] * 4, *[10] * 4]


def test_a_teacher_without_memory_for_one_view_is_refused(teacher: Teacher) -> None:
    with pytest.raises(UserError, match="does not fit into the memory"):
        replace(teacher, model=Hungry(0), fitting=Fitting()).logits(VIEWS[:3])


MADE = """
import timm
from torch import nn

def headless():
    return timm.create_model("resnet10t", num_classes=0)

def softmax():
    return nn.Sequential(timm.create_model("resnet10t", num_classes=7), nn.Softmax(dim=1))

def log_softmax():
    return nn.Sequential(timm.create_model("resnet10t", num_classes=7), nn.LogSoftmax(dim=1))
"""


def test_features_and_probabilities_are_not_taken_for_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made_teachers.py").write_text(MADE)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"python:made_teachers:headless has no classifier \(num_classes=0\)"):
        load_teacher("python:made_teachers:headless", CPU)
    with pytest.raises(UserError, match=r"python:made_teachers:softmax gives probabilities"):
        load_teacher("python:made_teachers:softmax", CPU).logits(VIEWS)
    # Logarithms of probabilities are logits.
    assert torch.allclose(
        load_teacher("python:made_teachers:log_softmax", CPU).logits(VIEWS).exp().sum(dim=1), torch.ones(2)
    )


def test_the_image_tower_of_a_clip_is_no_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm calls the size of its embedding num_classes. Its weights are not asked for here."""
    name = "vit_pe_core_tiny_patch16_384.fb"
    monkeypatch.setattr("tinyvit.models.teachers._from_timm", timm.create_model)
    with pytest.raises(UserError, match=r"has no classifier: its \d+ outputs are where it places an image"):
        load_teacher(f"timm:{name}", CPU)


def test_a_network_without_a_classifier_gives_a_student_its_weights(tmp_path: Path) -> None:
    student = Student(name="resnet10t", checkpoint="timm:local-dir:" + str(tmp_path / "bare"))
    bare: Any = timm.create_model("resnet10t", num_classes=0)
    bare.model_args = {}
    save_student(tmp_path / "bare", bare, Student(name="resnet10t"), None, Decode())
    made = create_student(student, 3, seed=0)
    assert torch.equal(made.state_dict()["conv1.0.weight"], bare.state_dict()["conv1.0.weight"])


STRANGERS = """
import torch
from torch import nn

class Strict(nn.Module):
    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(3, 5)
    def forward(self, pixels):
        assert pixels.shape[-2:] == (64, 64), f"made for 64, got {pixels.shape[-1]}"
        return self.classifier(pixels.mean(dim=(2, 3)))

def strict():
    return Strict()

def saying():
    made = Strict()
    made.pretrained_cfg = {"input_size": (3, 64, 64), "mean": None}
    return made

def oblong():
    made = Strict()
    made.pretrained_cfg = {"input_size": (3, 64, 48)}
    return made

def spoken():
    made = Strict()
    made.pretrained_cfg = "64 pixels"
    return made

def untidy():
    return {}["weights"]

def leaving():
    raise SystemExit(0)

def paired():
    made = Strict()
    made.forward = lambda pixels: (pixels, pixels)
    return made

def summed():
    made = Strict()
    made.forward = lambda pixels: pixels.mean(dim=(0, 2, 3))[None].expand(3, -1)
    return made
"""


@pytest.fixture
def strangers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of teachers that somebody else wrote."""
    (tmp_path / "strangers.py").write_text(STRANGERS)
    monkeypatch.syspath_prepend(tmp_path)
    return "python:strangers"


def test_a_teacher_is_tried_at_the_size_that_it_is_asked_at(strangers: str) -> None:
    loaded = load_teacher(f"{strangers}:strict", CPU, None, 64)
    assert (loaded.num_classes, loaded.input_size) == (5, 64)
    assert load_teacher(f"{strangers}:saying", CPU).logits(VIEWS).shape == (2, 5)
    # Its own size is what it says, whatever it is asked at.
    saying = load_teacher(f"{strangers}:saying", CPU, None, 32)
    assert saying.input_size == 64
    saying.try_size(None)
    line = r"saying gives no logits for views of 32 x 32 pixels \(AssertionError: made for 64, got 32\); say which size"
    with pytest.raises(UserError, match=line):
        saying.try_size(32)
    with pytest.raises(UserError, match=line):
        saying.logits(VIEWS[:, :32, :32])


@pytest.mark.parametrize(
    ("function", "line"),
    [
        (
            "strict",
            r"strict gives no logits for views of 224 x 224 pixels \(AssertionError: made for 64, got 224\)",
        ),
        ("oblong", r"is made for images of \(3, 64, 48\); views are square"),
        ("spoken", "has a str as its pretrained_cfg; make it a dictionary"),
        ("untidy", r"cannot be made \(KeyError: 'weights'\); python -c 'import strangers; strangers.untidy\(\)' shows"),
        ("leaving", r"cannot be made \(SystemExit: 0\)"),
        ("paired", r"makes tuple of \[1, 3, 224, 224\]; logits \[1, classes\] are wanted"),
        ("summed", r"makes a tensor \[3, 3\] of \[1, 3, 224, 224\]"),
        ("absent", r"cannot be made \(AttributeError"),
    ],
)
def test_what_a_strangers_teacher_does_wrong_is_one_line(function: str, line: str, strangers: str) -> None:
    with pytest.raises(UserError, match=line):
        load_teacher(f"{strangers}:{function}", CPU)


def test_a_size_that_the_teacher_does_not_take_is_refused_before_there_is_a_store(
    strangers: str, small_data: Path, tmp_path: Path
) -> None:
    name = f"{strangers}:saying"
    recipe = resolve_data(load_recipe("example", (*SMALL, f"label.teacher={name}", "label.top_k=5")), small_data)
    teacher = load_teacher(name, CPU, None, recipe.label.input_size)
    with pytest.raises(UserError, match="gives no logits for views of 32 x 32 pixels"):
        label_store(recipe, tmp_path / "store", teacher, 0, LogProgress())
    assert not (tmp_path / "store").exists()
    run = open_run(recipe, tmp_path / "run", ["distill"], 0, LogProgress())
    with pytest.raises(UserError, match="gives no logits for views of 32 x 32 pixels"):
        next(train(replace(run, signals=LiveSignals(teacher, recipe.label)), ["distill"]))
    assert not (tmp_path / "run").exists()


def test_evaluation_tries_the_size_that_it_is_given(strangers: str) -> None:
    assert load_eval_model(f"{strangers}:strict", CPU, 64).size == 64
    with pytest.raises(UserError, match="gives no logits for views of 32 x 32 pixels"):
        load_eval_model(f"{strangers}:saying", CPU, 32)


def test_a_teacher_that_answers_several_views_otherwise_than_one_is_refused(teacher: Teacher) -> None:
    with pytest.raises(UserError, match="gives 40 views 3 numbers each, one 1000; mend it"):
        replace(teacher, model=Hungry(100), fitting=Fitting()).logits(MANY)
