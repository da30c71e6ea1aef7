"""Weights of one network in another: other classes, another resolution."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from tinyvit.config import Decode, Student
from tinyvit.errors import UserError
from tinyvit.models import adopt_weights, classes_of, create_student, save_student

TINY = {"embed_dims": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}


def student(classes: int, seed: int = 0, **kwargs: object) -> torch.nn.Module:
    return create_student(Student(name="tiny_vit_5m_224", kwargs={**TINY, **kwargs}), classes, seed)


def test_the_classifier_keeps_the_rows_of_classes_that_both_have() -> None:
    before, now = ["n01440764 tench", "cat", "n02084071 dog"], ["Dog house", "n02084071", "n01440764"]
    old, new = student(3, seed=1), student(3, seed=2)
    adopt_weights(new, old.state_dict(), before, now)
    theirs, ours = (model.state_dict() for model in (old, new))
    for key in ("head.fc.weight", "head.fc.bias"):
        assert torch.equal(ours[key][1], theirs[key][2])
        assert torch.equal(ours[key][2], theirs[key][0])
        # A class that is new begins at the mean of those that are kept.
        assert torch.allclose(ours[key][0], theirs[key][[2, 0]].mean(dim=0))
    assert torch.equal(ours["patch_embed.conv1.conv.weight"], theirs["patch_embed.conv1.conv.weight"])


def test_a_classifier_of_other_classes_begins_afresh(caplog: pytest.LogCaptureFixture) -> None:
    old, new = student(3, seed=1), student(3, seed=2)
    fresh = new.state_dict()["head.fc.weight"].clone()
    adopt_weights(new, old.state_dict(), ["a", "b", "c"], ["x", "y", "z"])
    assert torch.equal(new.state_dict()["head.fc.weight"], fresh)
    larger = student(5, seed=2)
    fresh = larger.state_dict()["head.fc.weight"].clone()
    # Where another test has made the package talk, it has said something already.
    caplog.clear()
    with caplog.at_level("INFO", "tinyvit"):
        adopt_weights(larger, old.state_dict())
    told = "the classifier begins afresh: head.fc.weight [5, 64] is of shape [3, 64] in the checkpoint"
    assert caplog.messages == [told]
    assert torch.equal(larger.state_dict()["head.fc.weight"], fresh)
    # The same classes, or names that nobody knows: as they are.
    adopt_weights(new, old.state_dict(), ["a", "b", "c"], None)
    assert torch.equal(new.state_dict()["head.fc.weight"], old.state_dict()["head.fc.weight"])


def test_attention_biases_are_resized_from_the_smaller_model(caplog: pytest.LogCaptureFixture) -> None:
    """From windows of 7 to 12, as from 224 to 384 pixels: what grows smoothly with the offset goes on to do so."""
    small, large = student(3), student(3, window_sizes=[12, 12, 24, 12])
    key = "stages.1.blocks.0.attn.attention_biases"
    state = small.state_dict()
    state[key] = torch.arange(7.0).repeat_interleave(7)[None]
    with caplog.at_level("INFO", "tinyvit"):
        adopt_weights(large, state)
    assert caplog.messages == [
        "resized for another resolution: 1 x attention_biases [1, 49] to [1, 144]; "
        "1 x attention_biases [2, 196] to [2, 576]; 1 x attention_biases [2, 49] to [2, 144]",
        "the classifier keeps its rows by their numbers: the classes of the checkpoint or the stage have no names",
    ]
    grown = large.state_dict()[key].view(12, 12)
    assert torch.allclose(grown, grown[:, :1].expand(12, 12), atol=1e-4)
    assert (grown[:, 0].diff() > 0).all()
    assert grown[0, 0] == pytest.approx(0, abs=0.3)
    assert grown[-1, 0] == pytest.approx(6, abs=0.3)


@pytest.mark.parametrize("sizes", [(224, 384), (384, 512)])
def test_the_papers_models_go_from_one_resolution_to_the_next(sizes: tuple[int, int]) -> None:
    small, large = (f"tiny_vit_21m_{size}" for size in sizes)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in timm.create_model(small, num_classes=1000).state_dict().items()}
    model = create_student(Student(name=large), 1000, seed=0)
    adopt_weights(model, {name: torch.ones(shape) for name, shape in shapes.items()})
    for name, value in model.state_dict().items():
        assert torch.allclose(value, torch.ones_like(value), atol=1e-5), name


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"of another model: patch_embed.conv1.conv.weight does not fit"):
        adopt_weights(student(3), student(3, embed_dims=[32, 32, 48, 64]).state_dict())
    with pytest.raises(UserError, match=r"of another model: \S+ does not fit"):
        adopt_weights(student(3), {**student(3).state_dict(), "extra": torch.zeros(1)})


def test_a_student_may_begin_with_a_folder_or_a_teacher_by_name(tmp_path: Path) -> None:
    tiny = Student(name="tiny_vit_5m_224", kwargs=TINY)
    model = create_student(tiny, 2, seed=5, classes=["cat", "dog"])
    save_student(tmp_path / "s", model, tiny, ["cat", "dog"], Decode())
    for checkpoint in (str(tmp_path / "s"), f"timm:local-dir:{tmp_path / 's'}"):
        begun = create_student(tiny.model_copy(update={"checkpoint": checkpoint}), 1, 0, ["dog"])
        assert torch.equal(begun.state_dict()["head.fc.weight"][0], model.state_dict()["head.fc.weight"][1])


def test_the_weights_in_a_students_folder_have_its_class_names(tmp_path: Path) -> None:
    made = student(3)
    save_student(tmp_path, made, Student(name="tiny_vit_5m_224", kwargs=dict(TINY)), ("a", "b", "c"), Decode())
    assert classes_of(tmp_path) == classes_of(tmp_path / "model.safetensors") == ["a", "b", "c"]
    assert classes_of(tmp_path / "other.safetensors") is None
