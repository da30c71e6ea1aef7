"""Evaluation: the same figures from shards and folders, classes matched by name, at any size and crop."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from support import samples_of, tinyvit

from tinyvit.classes import columns, named_classes
from tinyvit.config import Decode, Recipe
from tinyvit.errors import UserError
from tinyvit.evaluation import Evaluator, Subject, open_pictures
from tinyvit.evaluation.pictures import EvaluationViews
from tinyvit.pixels import normalise
from tinyvit.progress import LogProgress
from tinyvit.students import create_student, save_student
from tinyvit.training.network import precision_of
from tinyvit.world import World

CPU = World(device=torch.device("cpu"))


@pytest.fixture(scope="module")
def classes(small_data: Path) -> tuple[str, ...]:
    return tuple((small_data / "val" / "classes.txt").read_text().splitlines())


@pytest.fixture(scope="module")
def model(small_recipe: Recipe) -> torch.nn.Module:
    """An untrained student, sure of itself, so that confidences differ."""
    made = create_student(small_recipe.student, 10, seed=0)
    with torch.no_grad():
        made.get_submodule("head.fc").weight.mul_(40)  # type: ignore[operator, union-attr]
    return made.eval()


def evaluate(subject: Subject, data: Path, workers: int = 0) -> dict[str, float]:
    return (
        Evaluator(subject, [open_pictures(str(data), LogProgress())], CPU, workers, torch.float32)
        .measure(subject.model)
        .as_dict()
    )


def image_folder(data: Path, classes: tuple[str, ...], out: Path) -> Path:
    """The samples of shards as an image folder, a sub-folder a class."""
    for sample in samples_of(data):
        assert sample.label is not None
        folder = out / classes[sample.label].replace("/", "-")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{sample.key}.png").write_bytes(sample.image)
    return out


def test_accuracy_loss_and_calibration_are_their_definitions(
    model: torch.nn.Module, small_data: Path, classes: tuple[str, ...]
) -> None:
    subject = Subject.of(model, classes)
    found = evaluate(subject, small_data / "val", workers=2)
    pictures = open_pictures(str(small_data / "val"), LogProgress())
    views = EvaluationViews(
        pictures, subject.size, subject.crop_pct, subject.crop_mode, subject.interpolation, 250, Decode()
    )
    ((pixels, labels),) = views.read(0, 1)
    labels = labels[:, 0]
    with torch.inference_mode():
        logits = model(normalise(pixels, subject.mean, subject.std, CPU.device))
    p, right = logits.softmax(dim=1).numpy(), (logits.argmax(dim=1) == labels).numpy()
    assert found["images"] == 250
    assert found["top1"] == pytest.approx(100 * right.mean(), abs=0.5)
    hits = [label in row for label, row in zip(labels, logits.topk(5).indices, strict=True)]
    assert found["top5"] == pytest.approx(100 * np.mean(hits), abs=0.5)
    assert found["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-4)
    confidence, error = p.max(axis=1), 0.0
    for low in np.arange(15) / 15:
        inside = (confidence >= low) & ((confidence < low + 1 / 15) | (low == 14 / 15))
        error += abs(confidence[inside].sum() - right[inside].sum()) / 250
    assert found["calibration_error"] == pytest.approx(100 * error, abs=0.5)
    assert found["calibration_error"] > 5


def test_shards_and_image_folder_give_the_same_figures_also_with_classes_in_another_order(
    model: torch.nn.Module, small_data: Path, classes: tuple[str, ...], tmp_path: Path
) -> None:
    folder = image_folder(small_data / "val", classes, tmp_path / "folder")
    one, two = (evaluate(Subject.of(model, classes), data) for data in (small_data / "val", folder))
    # The folder's classes are in the order of the alphabet, the shards' are not: matched by name.
    assert sorted(classes) != list(classes)
    for name in ("top1", "top5", "loss", "calibration_error"):
        assert two[name] == pytest.approx(one[name], rel=1e-4)


def test_any_size_and_crop(model: torch.nn.Module, small_data: Path, classes: tuple[str, ...]) -> None:
    subject = Subject.of(model, classes)
    changed = (subject, replace(subject, size=48), replace(subject, crop_pct=0.5))
    assert len({round(evaluate(one, small_data / "val")["loss"], 2) for one in changed}) == 3


def test_the_command_line_takes_size_crop_precision_and_class_names(
    model: torch.nn.Module, small_recipe: Recipe, small_data: Path, classes: tuple[str, ...], tmp_path: Path
) -> None:
    save_student(tmp_path / "student", model, small_recipe.student, classes, Decode())
    names = str(small_data / "val" / "classes.txt")
    more = ("--size", "48", "--crop", "0.5", "--precision", "bfloat16", "--classes", names)
    done = tinyvit("evaluate", tmp_path / "student", "--data", small_data / "val", "--json", *more)
    assert done.returncode == 0, done.stderr
    wanted = evaluate(replace(Subject.of(model, classes), size=48, crop_pct=0.5), small_data / "val")
    found = json.loads(done.stdout)
    assert found["size"] == 48
    assert found["loss"] == pytest.approx(wanted["loss"], rel=0.05)
    refused = tinyvit("evaluate", tmp_path / "student", "--data", small_data / "val", "--classes", "imagenet-1k")
    assert refused.returncode == 2
    assert "none in common" in " ".join(refused.stderr.split())
    with pytest.raises(UserError, match="there is no precision 'int8'"):
        precision_of("int8", CPU.device)
    with pytest.raises(UserError, match="there is no class list no-such"):
        named_classes("no-such")


def test_a_teacher_is_evaluated_by_its_name_on_imagenet_classes(tmp_path: Path) -> None:
    for synset, picture in (("n07920052", skimage.data.coffee()), ("n02123045", skimage.data.chelsea())):
        (tmp_path / "pictures" / synset).mkdir(parents=True)
        Image.fromarray(picture).save(tmp_path / "pictures" / synset / "one.png")
    done = tinyvit("evaluate", "pypi:efficientnet-lite0", "--data", tmp_path / "pictures", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # Espresso and tabby cat, of two classes that are not the model's first two.
    assert (found["images"], found["top1"]) == (2, 100.0)


def test_imagenet_21k_models_on_imagenet_1k() -> None:
    """timm's lists agree with imagenet_1kto22k.txt of the paper's code, whose first, 837th and last lines these are."""
    chosen = columns(named_classes("imagenet-22k"), named_classes("imagenet-1k"))
    assert chosen is not None
    assert chosen[:8] == [359, 368, 460, 475, 486, 492, 496, 514]
    assert chosen[-3:] == [21198, 21367, 21815]
    missing = named_classes("imagenet-1k").index("n04399382")
    assert [number for number, column in enumerate(chosen) if column < 0] == [missing]


def test_two_classes_of_one_name_stay_apart_where_the_lists_agree() -> None:
    names = ["crane", "tench", "crane"]
    assert columns(names, ["Crane", "tench", "crane"]) is None
    assert columns(names, ["tench"]) == [1]


def test_a_class_that_the_model_does_not_have_is_never_its_answer(small_data: Path, model: torch.nn.Module) -> None:
    """Of ten classes the model knows nine: pictures of the tenth are wrong, the others as before."""
    classes = tuple(f"class {n}" for n in range(10))
    known = Subject.of(model, (*classes[:9], "another"))
    pictures = open_pictures(str(small_data / "val"), LogProgress())
    evaluator = Evaluator(known, [pictures], CPU, 0, torch.float32, classes=classes)
    found = evaluator.measure(model)
    assert np.isfinite(found.loss)
    labels = [sample.label for sample in samples_of(small_data / "val")]
    assert found.top1 <= 100 - 100 * labels.count(9) / len(labels)


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no .tar shards"):
        open_pictures(str(tmp_path), LogProgress())
    (tmp_path / "class").mkdir()
    with pytest.raises(UserError, match="has no pictures"):
        open_pictures(str(tmp_path), LogProgress())
