"""Teachers by name: what is loaded is what was named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

from tinyvit.config import Decode, Student
from tinyvit.errors import UserError
from tinyvit.students import create_student, save_student
from tinyvit.teachers import Fitting, Teacher, load_teacher, weights_digest

CPU = torch.device("cpu")
VIEWS = torch.randint(256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_checkpoint_file_gives_the_same_teacher_as_its_source(teacher: Teacher, tmp_path: Path) -> None:
    torch.save(teacher.model.state_dict(), tmp_path / "lite0.pth")
    loaded = load_teacher(f"timm:tf_efficientnet_lite0@{tmp_path / 'lite0.pth'}", CPU, None)
    assert loaded.weights_sha256 == teacher.weights_sha256
    assert loaded.classes == teacher.classes
    assert torch.equal(loaded.answer(VIEWS), teacher.answer(VIEWS))


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
    whole = replace(teacher, model=Hungry(100)).answer(MANY)
    hungry = Hungry(11)
    asked = replace(teacher, model=hungry, fitting=Fitting())
    for _ in range(2):
        assert torch.equal(asked.answer(MANY), whole)
    assert hungry.asked == [40, 20, *[10] * 4, *[10] * 4]


def test_a_teacher_without_memory_for_one_view_is_refused(teacher: Teacher) -> None:
    with pytest.raises(UserError, match="does not fit into the memory"):
        replace(teacher, model=Hungry(0), fitting=Fitting()).answer(VIEWS[:3])


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
    with pytest.raises(UserError, match=r"python:made_teachers:softmax answers with probabilities"):
        load_teacher("python:made_teachers:softmax", CPU).answer(VIEWS)
    # Logarithms of probabilities are logits.
    assert torch.allclose(
        load_teacher("python:made_teachers:log_softmax", CPU).answer(VIEWS).exp().sum(dim=1), torch.ones(2)
    )


def test_the_image_tower_of_a_clip_is_no_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm calls the size of its embedding num_classes. Its weights are not asked for here."""
    name = "vit_pe_core_tiny_patch16_384.fb"
    monkeypatch.setattr("tinyvit.teachers._from_timm", timm.create_model)
    with pytest.raises(UserError, match=r"has no classifier: its \d+ outputs are where it places a picture"):
        load_teacher(f"timm:{name}", CPU)


def test_a_network_without_a_classifier_gives_a_student_its_weights(tmp_path: Path) -> None:
    student = Student(name="resnet10t", checkpoint="timm:local-dir:" + str(tmp_path / "bare"))
    bare = timm.create_model("resnet10t", num_classes=0)
    bare.model_args = {}
    save_student(tmp_path / "bare", bare, Student(name="resnet10t"), None, Decode())
    made = create_student(student, 3, seed=0)
    assert torch.equal(made.state_dict()["conv1.0.weight"], bare.state_dict()["conv1.0.weight"])
