"""Label, train, evaluate and examine the same pixels, whatever files the images are in."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import EXAMPLE, SMALL, bytes_of, label_all, samples_of, small_arguments, tinyvit

from logitstore import LogitStore
from tinyvit.config import Decode, Recipe, load_recipe
from tinyvit.data.index import index_shards
from tinyvit.data.location import resolve_data
from tinyvit.data.render_views import render_views
from tinyvit.data.training_views import Replayed, TrainingViews
from tinyvit.datasets.make import write_shards
from tinyvit.datasets.sources import SourceImage
from tinyvit.doctor.sample import draw
from tinyvit.errors import UserError
from tinyvit.evaluation import EvalModel, load_eval_model, open_images
from tinyvit.evaluation.views import EvaluationViews
from tinyvit.models import create_student, save_student
from tinyvit.models.teachers import Teacher
from tinyvit.runtime.progress import LogProgress

COUNT = 24
UNDONE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def in_other_files(number: int, grey: np.ndarray) -> bytes:
    """A grey image, held otherwise and perhaps in 16 bits."""
    exif = Image.Exif()
    exif[0x0112] = orientation = 2 + number % 7
    held = Image.fromarray(grey).transpose(UNDONE[orientation])
    deep = Image.fromarray(np.asarray(held).astype(np.uint16) * 257)
    image, kind, options = [(held, "PNG", {}), (deep, "TIFF", {}), (deep, "PNG", {}),
                              (held.convert("RGB"), "WEBP", {"lossless": True})][number % 4]  # fmt: skip
    return bytes_of(image, kind, exif=exif, **options)


def see_through(number: int, grey: np.ndarray) -> bytes:
    """A grey image whose black is a background that shows through."""
    hidden = np.where(grey == 0, 7 * number % 256, grey).astype(np.uint8)
    return bytes_of(Image.fromarray(np.stack([hidden, np.where(grey == 0, 0, 255).astype(np.uint8)], axis=2)), "PNG")


def packed(out: Path, change: Callable[[int, np.ndarray], bytes]) -> Path:
    for split in ("train", "val"):
        samples = samples_of(EXAMPLE / split)[:COUNT]
        greys = [np.asarray(Image.open(io.BytesIO(sample.image)).crop((0, 0, 28, 20))) for sample in samples]
        images = [
            SourceImage(sample.key, "png", change(number, grey), sample.label or 0)
            for number, (sample, grey) in enumerate(zip(samples, greys, strict=True))
        ]
        names = (EXAMPLE / split / "classes.txt").read_text().splitlines()
        write_shards(images, out / split, classes=names, per_shard=COUNT, seed=0, progress=LogProgress())
    return out


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same images in plain files, in others, and with a background that shows through."""
    place = tmp_path_factory.mktemp("pixels")
    changes = {
        "plain": lambda _, grey: bytes_of(Image.fromarray(grey), "PNG"),
        "others": in_other_files,
        "see-through": see_through,
    }
    return {name: packed(place / name, change) for name, change in changes.items()}


def recipe_on(folder: Path, *more: str) -> Recipe:
    return resolve_data(load_recipe("example", [*SMALL, "label.epochs=1", "label.epochs_per_unit=1", *more]), folder)


@pytest.fixture(scope="module")
def plain_store(folders: dict[str, Path], teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> LogitStore:
    return label_all(recipe_on(folders["plain"]), tmp_path_factory.mktemp("pixels-store") / "s", teacher)


def answers(store: LogitStore) -> list[np.ndarray]:
    rows = store.read(0, 0)
    return [rows.class_id, rows.probability, rows.residual, rows.view_digest]


CASES = [("others", ()), ("see-through", ("data.background=black",))]


@pytest.mark.parametrize(("name", "more"), CASES)
def test_labels_are_those_of_the_plain_files(
    folders: dict[str, Path], plain_store: LogitStore, teacher: Teacher, tmp_path: Path, name: str, more: tuple[str]
) -> None:
    store = label_all(recipe_on(folders[name], *more), tmp_path / "s", teacher)
    assert store.read(0, 0).valid.all()
    for one, two in zip(answers(store), answers(plain_store), strict=True):
        assert np.array_equal(one, two)
    assert store.spec.decode["background"] == (more[0].partition("=")[2] if more else None)


def test_grey_without_a_white_stops_labelling_by_its_key_or_is_left_out(teacher: Teacher, tmp_path: Path) -> None:
    def first_in_fractions(number: int, grey: np.ndarray) -> bytes:
        image = Image.fromarray(grey if number else grey.astype(np.float32))
        return bytes_of(image, "TIFF")

    data = packed(tmp_path / "data", first_in_fractions)
    key = samples_of(EXAMPLE / "train")[0].key
    with pytest.raises(UserError, match=f"the image of '{key}' cannot be decoded .TIFF with grey in fractions"):
        label_all(recipe_on(data), tmp_path / "s", teacher)
    store = label_all(recipe_on(data, "data.broken=skip"), tmp_path / "s", teacher)
    assert (~store.read(0, 0).valid).sum() == 1


def test_whatever_an_augmentation_raises_names_the_image(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("sizes should be greater than 0")

    monkeypatch.setattr("tinyvit.views.augmentation.interpolate", raises)
    recipe = recipe_on(folders["plain"])
    shard = index_shards(recipe.data.train, LogProgress()).shard(0)
    seeds = np.arange(5, 5 + COUNT, dtype=np.uint32)
    words = rf"no view of '{shard.key_of(3)}' .* seed 8 \(RuntimeError: sizes should be greater than 0\); take"
    with pytest.raises(UserError, match=words):
        render_views(shard, [3], seeds, recipe.label.augment, Decode(), 32)


def test_an_image_that_cannot_be_prepared_is_named(tmp_path: Path) -> None:
    # timm's crop mode border makes the shorter side of this one no pixel long.
    packed(tmp_path, lambda _, grey: bytes_of(Image.new("L", (1, 500)), "PNG"))
    images = open_images(str(tmp_path / "val"), LogProgress())
    views = EvaluationViews(images, 32, 1.0, "border", "bicubic", COUNT, Decode())
    with pytest.raises(UserError, match=r"of 1 x 500 pixels cannot be prepared .ValueError: height and width"):
        list(views.read(0, 1))


def views_of(recipe: Recipe, store: LogitStore) -> torch.Tensor:
    replayed = Replayed(0, store.spec.run_seed, None)
    index = index_shards(recipe.data.train, LogProgress())
    views = TrainingViews(index, recipe.label.augment, recipe.data.decode, 32, 10, COUNT, 0, 0, (replayed,))
    (batch,) = views.read(0, 1)
    return batch.views


@pytest.mark.parametrize(("name", "more"), CASES)
def test_students_are_shown_and_measured_on_what_the_plain_files_show(
    folders: dict[str, Path], plain_store: LogitStore, name: str, more: tuple[str]
) -> None:
    plain, other = recipe_on(folders["plain"]), recipe_on(folders[name], *more)
    assert torch.equal(views_of(plain, plain_store), views_of(other, plain_store))
    prepared = []
    for recipe in (plain, other):
        images = open_images(str(recipe.data.val), LogProgress())
        views = EvaluationViews(images, 32, 0.9, "center", "bicubic", COUNT, recipe.data.decode)
        prepared += [batch.views for batch in views.read(0, 1)]
    assert torch.equal(*prepared)
    sampled = [draw(index_shards(r.data.train, LogProgress()), 16, 0, r.data.decode) for r in (plain, other)]
    assert sampled[0].sides == sampled[1].sides == ((28, 20),) * 16
    assert (sampled[0].labels == sampled[1].labels).all()
    if name == "see-through":
        beneath = recipe_on(folders[name])
        assert not torch.equal(views_of(plain, plain_store), views_of(beneath, plain_store))


def test_a_student_is_evaluated_as_it_was_trained(
    folders: dict[str, Path], small_recipe: Recipe, tmp_path: Path
) -> None:
    classes = tuple((EXAMPLE / "val" / "classes.txt").read_text().splitlines())
    model = create_student(small_recipe.student, 10, seed=0)
    found, to_json = {}, ("--json", "--workers", "0")
    for name, decode in (("black", Decode(background="black")), ("usual", Decode())):
        save_student(tmp_path / name, model, small_recipe.student, classes, decode)
        assert load_eval_model(str(tmp_path / name), torch.device("cpu")).decode == decode
        done = tinyvit("evaluate", tmp_path / name, "--data", folders["see-through"] / "val", *to_json)
        assert done.returncode == 0, done.stderr
        found[name] = json.loads(done.stdout)
    plain = json.loads(tinyvit("evaluate", tmp_path / "usual", "--data", folders["plain"] / "val", *to_json).stdout)
    assert found["black"]["loss"] == pytest.approx(plain["loss"], rel=1e-6)
    assert found["usual"]["loss"] != pytest.approx(plain["loss"], rel=1e-3)
    subject = EvalModel.of(model, classes)
    assert subject.data_config != replace(subject, decode=Decode(background="black")).data_config


def test_training_keeps_how_images_were_read_beside_the_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    more = ("--set", "data.background=black", "--set", "stages.finetune.batch_size=10", "--workers", "0")
    arguments = ("train", "example", "--stage", "finetune", "--run-dir", tmp_path / "run")
    done = tinyvit(*arguments, *small_arguments(folders["see-through"]), *more)
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run" / "finetune" / "config.json").read_text())
    assert config["decode"] == {"orientation": "exif", "background": "black"}
    refused = tinyvit(*arguments, *small_arguments(folders["see-through"]), *more, "--set", "data.background=white")
    assert refused.returncode == 2
    assert "holds a stage of another recipe" in refused.stderr


def test_a_student_of_an_earlier_release_is_read_as_usual_and_a_damaged_record_is_refused(
    small_recipe: Recipe, tmp_path: Path
) -> None:
    save_student(tmp_path, create_student(small_recipe.student, 10, seed=0), small_recipe.student, None, Decode())
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in config.items() if key != "decode"}))
    assert load_eval_model(str(tmp_path), torch.device("cpu")).decode == Decode()
    file.write_text(json.dumps(config | {"decode": {"orientation": "up"}}))
    done = tinyvit("evaluate", tmp_path, "--data", EXAMPLE / "val")
    assert done.returncode == 2
    assert "does not say how images are read" in done.stderr
