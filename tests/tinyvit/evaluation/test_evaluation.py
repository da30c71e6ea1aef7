"""Evaluation: the same figures from shards and folders, classes matched by name, at any size and crop."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from support import samples_of, tinyvit

from tinyvit.classes import class_index_map, named_classes
from tinyvit.config import Decode, Recipe
from tinyvit.errors import UserError
from tinyvit.evaluation import EvalModel, Evaluator, open_images
from tinyvit.evaluation.images import DataSet, with_classes
from tinyvit.evaluation.views import EvaluationViews
from tinyvit.models import create_student, save_student
from tinyvit.runtime.distributed import World
from tinyvit.runtime.progress import LogProgress
from tinyvit.training.model_runner import precision_of
from tinyvit.views.pixels import normalise

CPU = World(device=torch.device("cpu"))


@pytest.fixture(scope="module")
def classes(small_data: Path) -> tuple[str, ...]:
    return tuple((small_data / "val" / "classes.txt").read_text().splitlines())


@pytest.fixture(scope="module")
def model(small_recipe: Recipe) -> torch.nn.Module:
    """An untrained student, sure of itself, so that confidences differ."""
    made = create_student(small_recipe.student, 10, seed=0)
    with torch.no_grad():
        made.get_submodule("head.fc").weight.mul_(40)  # type: ignore[operator]
    return made.eval()


def evaluate(subject: EvalModel, data: Path | DataSet, workers: int = 0, **options: Any) -> dict[str, Any]:
    images = open_images(str(data), LogProgress()) if isinstance(data, Path) else data
    return Evaluator(subject, [images], CPU, workers, torch.float32, **options).measure(subject.model).as_dict()


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
    subject = EvalModel.of(model, classes)
    found = evaluate(subject, small_data / "val", workers=2)
    images = open_images(str(small_data / "val"), LogProgress())
    views = EvaluationViews(
        images, subject.size, subject.crop_pct, subject.crop_mode, subject.interpolation, 250, Decode()
    )
    (batch,) = views.read(0, 1)
    pixels, labels = batch.views, batch.labels[:, 0]
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
    one, two = (evaluate(EvalModel.of(model, classes), data) for data in (small_data / "val", folder))
    # The folder's classes are in the order of the alphabet, the shards' are not: matched by name.
    assert sorted(classes) != list(classes)
    for name in ("top1", "top5", "loss", "calibration_error"):
        assert two[name] == pytest.approx(one[name], rel=1e-4)


def test_any_size_and_crop(model: torch.nn.Module, small_data: Path, classes: tuple[str, ...]) -> None:
    subject = EvalModel.of(model, classes)
    changed = (subject, replace(subject, size=48), replace(subject, crop_pct=0.5))
    assert len({round(evaluate(one, small_data / "val")["loss"], 2) for one in changed}) == 3


def test_the_command_line_takes_size_crop_precision_and_class_names(
    model: torch.nn.Module, small_recipe: Recipe, small_data: Path, classes: tuple[str, ...], tmp_path: Path
) -> None:
    save_student(tmp_path / "student", model, small_recipe.student, classes, Decode())
    names = str(small_data / "val" / "classes.txt")
    more = ("--size", "48", "--crop", "0.5", "--precision", "bfloat16", "--classes", names, "--restrict")
    done = tinyvit("evaluate", tmp_path / "student", "--data", small_data / "val", "--json", *more)
    assert done.returncode == 0, done.stderr
    wanted = evaluate(replace(EvalModel.of(model, classes), size=48, crop_pct=0.5), small_data / "val")
    found = json.loads(done.stdout)
    assert found["size"] == 48
    assert found["loss"] == pytest.approx(wanted["loss"], rel=0.05)
    assert (found["classes"], found["unknown_classes"], found["matched"]) == (10, 0, "by name")
    others = tmp_path / "others.txt"
    others.write_text("".join(f"other {n}\n" for n in range(10)))
    for given in ("imagenet-1k", others):
        refused = tinyvit("evaluate", tmp_path / "student", "--data", small_data / "val", "--classes", given)
        assert refused.returncode == 2
        assert "names its classes itself, such as 'T-shirt/top'; leave --classes out" in " ".join(
            refused.stderr.split()
        )
    with pytest.raises(UserError, match="there is no precision 'int8'"):
        precision_of("int8", CPU.device)
    with pytest.raises(UserError, match="there is no class list no-such"):
        named_classes("no-such")


def test_a_teacher_is_evaluated_by_its_name_on_imagenet_classes(tmp_path: Path) -> None:
    for synset, image in (("n07920052", skimage.data.coffee()), ("n02123045", skimage.data.chelsea())):
        (tmp_path / "pictures" / synset).mkdir(parents=True)
        Image.fromarray(image).save(tmp_path / "pictures" / synset / "one.png")
    done = tinyvit("evaluate", "pypi:efficientnet-lite0", "--data", tmp_path / "pictures", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # Espresso and tabby cat, of two classes that are not the model's first two; of all 1,000 it calls the cat another.
    assert (found["images"], found["classes"]) == (2, 1000)
    restricted = tinyvit("evaluate", "pypi:efficientnet-lite0", "--data", tmp_path / "pictures", "--json", "--restrict")
    chosen = json.loads(restricted.stdout)
    assert (chosen["images"], chosen["classes"], chosen["top1"]) == (2, 2, 100.0)


def test_imagenet_21k_models_on_imagenet_1k() -> None:
    """timm's lists agree with imagenet_1kto22k.txt of the paper's code, whose first, 837th and last lines these are."""
    chosen = class_index_map(named_classes("imagenet-1k"), named_classes("imagenet-22k"))
    assert chosen is not None
    assert chosen[:8] == [359, 368, 460, 475, 486, 492, 496, 514]
    assert chosen[-3:] == [21198, 21367, 21815]
    missing = named_classes("imagenet-1k").index("n04399382")
    assert [number for number, column in enumerate(chosen) if column < 0] == [missing]


class Always(torch.nn.Module):
    """A network of some classes that says the same of every image: the most likely class first, then the others."""

    def __init__(self, answers: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.logits = torch.zeros(outputs)
        self.logits[list(answers)] = torch.arange(len(answers) + 1, 1.0, -1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(pixels), -1)


def sure(subject: EvalModel, answers: Sequence[int], classes: Sequence[str]) -> EvalModel:
    """The subject's preparation with a network of other classes."""
    return replace(subject, model=Always(answers, len(classes)), classes=list(classes))


COLOURS = ("red", "green", "blue", "yellow")


def coloured(folder: Path, counts: dict[str, int]) -> Path:
    """So many images of each colour, in an image folder."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (40, 40), name if name in COLOURS else "grey").save(folder / name / f"{number}.png")
    return folder


def test_accuracy_is_over_all_classes_of_the_model(model: torch.nn.Module, tmp_path: Path) -> None:
    """A model that calls everything yellow is wrong about red and green also where nothing yellow is asked about."""
    subject = EvalModel.of(model)
    yellow = sure(subject, [3, 1, 0, 2], COLOURS)
    data = coloured(tmp_path / "data", {"red": 4, "green": 6})
    found = evaluate(yellow, data)
    assert (found["top1"], found["top5"], found["classes"], found["unknown_classes"]) == (0, 100, 4, 0)
    # On request it chooses among the data's classes: of red and green it prefers green.
    restricted = evaluate(yellow, data, restrict=True)
    assert (restricted["top1"], restricted["classes"]) == (60, 2)
    made = tmp_path / "shards"
    assert tinyvit("data", "make", data, made).returncode == 0
    (made / "classes.txt").write_text("green\nred\nblue\nyellow\n")
    assert evaluate(yellow, made)["top1"] == 0


def test_what_a_model_does_not_know_is_never_right(model: torch.nn.Module, tmp_path: Path) -> None:
    """Of ten classes it knows two, and of these it is right about one: no more among its first five."""
    names = [f"class {n}" for n in range(10)]
    data = coloured(tmp_path / "data", dict.fromkeys(names, 2))
    two = sure(EvalModel.of(model), [1, 0], names[3:5])
    found = evaluate(two, data)
    assert (found["images"], found["top1"], found["top5"]) == (20, 10, 20)
    assert (found["unknown_classes"], found["unknown_images"]) == (8, 16)
    # Of the images that it can be right about.
    assert found["loss"] == pytest.approx(torch.tensor([2.0, 1]).log_softmax(0).mean().neg().item(), rel=1e-4)
    one = sure(EvalModel.of(model), [0], names[3:4])
    assert evaluate(one, data, restrict=True)["top1"] == evaluate(one, data)["top1"] == 10
    none = replace(two, classes=["class 3", "another"], model=Always([1, 0], 2))
    assert (evaluate(none, data)["top1"], evaluate(none, data, restrict=True)["top1"]) == (0, 10)


def test_folders_called_by_numbers_are_taken_by_value(model: torch.nn.Module, tmp_path: Path) -> None:
    names = [str(n) for n in range(12)]
    data = coloured(tmp_path / "data", dict.fromkeys(names, 1))
    listed = tmp_path / "names.txt"
    listed.write_text("".join(f"kind {n}\n" for n in range(12)))
    images = open_images(str(data), LogProgress())
    assert images.classes == names
    for n in (2, 10):
        nth = sure(EvalModel.of(model), [n], [f"kind {m}" for m in range(12)])
        called = with_classes(images, str(listed), str(data))
        right = [p for part in range(len(called.counts)) for p in called.read(part, range(12)) if p.labels == (n,)]
        assert [Path(image.name).parent.name for image in right] == [str(n)]
        assert evaluate(nth, called)["top1"] == pytest.approx(100 / 12)
        # A model whose classes have no names: number n is its n-th.
        nameless = replace(nth, classes=None)
        (image,) = [p for p in images.read(0, range(12)) if p.labels == (n,)]
        assert Path(image.name).parent.name == str(n)
        assert evaluate(nameless, data)["top1"] == pytest.approx(100 / 12)


def test_a_list_of_classes_must_fit(tmp_path: Path) -> None:
    listed = tmp_path / "names.txt"
    listed.write_text("a\nb\nc\n")
    for folder, counts, told in (
        ("numbers", {"0": 1, "3": 1}, "has a class 3, .* names 3 classes, from 0 on"),
        ("synsets", {"n01440764": 1, "n02123045": 1, "n07920052": 1}, "names its classes itself, such as 'n01440764'"),
    ):
        data = coloured(tmp_path / folder, counts)
        with pytest.raises(UserError, match=told):
            with_classes(open_images(str(data), LogProgress()), str(listed), str(data))
    made = tmp_path / "shards"
    assert tinyvit("data", "make", tmp_path / "numbers", made).returncode == 0
    with pytest.raises(UserError, match=r"has a class 3, .* names 3 classes"):
        with_classes(open_images(str(made), LogProgress()), str(listed), str(made))
    # What the shards say themselves is not said again in another order.
    (made / "classes.txt").write_text("b\na\n")
    with pytest.raises(UserError, match="names its classes itself, such as 'b'"):
        with_classes(open_images(str(made), LogProgress()), str(listed), str(made))
    listed.write_text("B\na\n")
    assert with_classes(open_images(str(made), LogProgress()), str(listed), str(made)).classes == ["b", "a"]
    listed.write_text("a\nb\nc\n")
    (made / "classes.txt").unlink()
    called = with_classes(open_images(str(made), LogProgress()), str(listed), str(made))
    assert called.classes == ["a", "b", "c"]


def test_broken_images_and_those_without_a_label_are_counted_or_refused(model: torch.nn.Module, tmp_path: Path) -> None:
    data = coloured(tmp_path / "data", {"red": 4, "green": 6})
    (data / "red" / "0.png").write_bytes((data / "red" / "1.png").read_bytes()[:60])
    green = sure(EvalModel.of(model), [1], COLOURS)
    with pytest.raises(UserError, match=r"red/0.png cannot be decoded .*--skip-broken"):
        evaluate(green, data)
    found = evaluate(green, data, skip_broken=True)
    assert (found["images"], found["broken"], found["top1"]) == (9, 1, pytest.approx(100 * 6 / 9))
    for workers in (0, 2):
        evaluator = Evaluator(green, [open_images(str(data), LogProgress())], CPU, workers, torch.float32)
        with pytest.raises(UserError, match=r"red/0.png cannot be decoded"):
            evaluator.check_images(4, LogProgress())


def test_probabilities_are_not_taken_for_logits(model: torch.nn.Module, small_data: Path) -> None:
    ended = torch.nn.Sequential(model, torch.nn.Softmax(dim=1)).eval()
    with pytest.raises(UserError, match="gives probabilities where logits are wanted"):
        evaluate(replace(EvalModel.of(model), model=ended), small_data / "val")


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no .tar shards"):
        open_images(str(tmp_path), LogProgress())
    (tmp_path / "class").mkdir()
    with pytest.raises(UserError, match="has no images"):
        open_images(str(tmp_path), LogProgress())


class Sick(torch.nn.Module):
    """A network that says so of every image, or says it only of one image at a time."""

    def __init__(self, logits: list[float], most: int = 1000) -> None:
        super().__init__()
        self.logits, self.most = torch.tensor(logits), most

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > self.most:
            raise KeyError("too many")
        return self.logits.expand(len(pixels), -1)


def test_answers_that_are_none_are_one_line(model: torch.nn.Module, tmp_path: Path) -> None:
    data = coloured(tmp_path / "data", {"red": 2, "green": 2})
    named = replace(EvalModel.of(model), classes=["red", "green"])
    for logits in ([torch.nan, 0.0], [torch.inf, 0.0], [-torch.inf, -torch.inf]):
        with pytest.raises(UserError, match="logits for 4 of 4 images are NaN or infinite"):
            evaluate(replace(named, model=Sick(logits)), data)
    with pytest.raises(UserError, match=r"gives no logits for 4 images \(KeyError"):
        evaluate(replace(named, model=Sick([0.0, 1.0], most=1)), data)
    # What is impossible is wrong, and has no loss that JSON could say.
    found = evaluate(replace(named, model=Sick([-torch.inf, 1.0])), data)
    assert (found["top1"], found["loss"]) == (50, None)


def test_validation_of_broken_images_alone_is_refused(model: torch.nn.Module, tmp_path: Path) -> None:
    data = coloured(tmp_path / "data", {"red": 1, "green": 1})
    for file in data.rglob("*.png"):
        file.write_bytes(file.read_bytes()[:60])
    images = open_images(str(data), LogProgress())
    evaluator = Evaluator(sure(EvalModel.of(model), [1], COLOURS), [images], CPU, 0, torch.float32, skip_broken=True)
    with pytest.raises(UserError, match="none of the 2 images for validation can be used"):
        evaluator.check_images(4, LogProgress())
