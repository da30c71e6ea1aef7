"""The scorecard: networks side by side from the command line, kept, with intervals or the spread over seeds."""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path

import pytest
from PIL import Image
from support import samples_of, tinyvit

from tinyvit.config import Decode, Recipe
from tinyvit.models import create_student, save_student


@pytest.fixture(scope="module")
def students(small_recipe: Recipe, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three untrained students of the data's classes."""
    classes = (small_data / "val" / "classes.txt").read_text().splitlines()
    folder = tmp_path_factory.mktemp("students")
    for seed in range(3):
        model = create_student(small_recipe.student, 10, seed=seed)
        save_student(folder / str(seed), model, small_recipe.student, classes, Decode())
    return [folder / str(seed) for seed in range(3)]


def test_networks_side_by_side(students: list[Path], small_data: Path, tmp_path: Path) -> None:
    one, *seeds = students
    asked = [f"first={one}", f"seeds={seeds[0]},{seeds[1]}", "--data", f"small={small_data}", "--run-dir", tmp_path]
    asked += [part for measure in ("top-1", "linear", "knn") for part in ("--only", measure)]
    done = tinyvit("scorecard", *asked, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    first, both = (row["figures"]["small"] for row in found["rows"])
    assert set(first) == set(both) == {"top-1", "linear probe", "20-NN"}
    alone = tinyvit("evaluate", one, "--data", small_data / "val", "--json")
    assert first["top-1"]["percent"] == pytest.approx(json.loads(alone.stdout)["top1"])
    assert first["linear probe"]["low"] < first["linear probe"]["percent"] < first["linear probe"]["high"]
    assert first["linear probe"]["percent"] > first["top-1"]["percent"] + 10
    for figure in both.values():
        assert figure["percent"] == pytest.approx(statistics.mean(figure["each"]))
        assert figure["high"] - figure["percent"] == pytest.approx(statistics.stdev(figure["each"]))
    assert found["rows"][0]["parameters"] > 1e5
    page = (tmp_path / "scorecard.html").read_text()
    assert "first" in page
    assert f"{first['20-NN']['percent']:.1f} ±" in page
    # Again, and nothing is computed: no image is read, no head is fitted.
    again = tinyvit("scorecard", *asked)
    assert again.returncode == 0, again.stderr
    assert "features" not in again.stderr
    assert "evaluate" not in again.stderr
    assert "linear probe" in again.stdout


def test_what_was_found_is_not_kept_where_classes_get_other_names(
    students: list[Path], small_data: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(small_data, data)
    names = (data / "val" / "classes.txt").read_text().splitlines()
    asked = ["scorecard", students[0], "--data", f"small={data}", "--only", "top-1", "--run-dir", tmp_path, "--json"]
    found = []
    for order in ([*names[1:], names[0]], names):
        (data / "val" / "classes.txt").write_text("\n".join(order) + "\n")
        done = tinyvit(*asked)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout)["rows"][0]["figures"]["small"]["top-1"]["percent"])
    wanted = tinyvit("evaluate", students[0], "--data", data / "val", "--json")
    assert found[1] == pytest.approx(json.loads(wanted.stdout)["top1"]) != found[0]


def test_image_folders_and_what_the_data_does_not_allow(students: list[Path], small_data: Path, tmp_path: Path) -> None:
    """Two classes the network does not know, in folders; validation lacks one of the training's classes."""
    for split, labels in (("train", (1, 3, 5)), ("val", (1, 5))):
        for sample in samples_of(small_data / split):
            if sample.label in labels:
                folder = tmp_path / "pets" / split / f"kind {sample.label}"
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{sample.key}.png").write_bytes(sample.image)
    done = tinyvit("scorecard", students[0], "--data", tmp_path / "pets", "--run-dir", tmp_path / "run", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    figures = row["figures"]["pets"]
    assert figures["top-1"]["why"] == "it tells other classes apart"
    assert "2 classes have the 16 images" in figures["few-shot"]["why"]
    # Labels are matched by name: as numbers, those of val would mean other classes.
    assert figures["20-NN"]["percent"] > 60
    assert figures["linear probe"]["percent"] > 60
    assert "it tells other classes apart" in (tmp_path / "run" / "scorecard.html").read_text()


def test_published_sets_that_are_there(small_data: Path, tmp_path: Path) -> None:
    """A set in a folder by its published name is found; the others are not asked for."""
    folder = tmp_path / "sets" / "imagenet-a" / "n01498041"
    folder.mkdir(parents=True)
    Image.new("RGB", (64, 64), "blue").save(folder / "one.jpg")
    (tmp_path / "sets" / "sketch" / "cats").mkdir(parents=True)
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "sets" / "sketch" / "cats" / "one.jpg")
    done = tinyvit("scorecard", "pypi:efficientnet-lite0", "--sets", tmp_path / "sets", "--run-dir", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    assert list(row["figures"]) == ["ImageNet's sets"]
    found = row["figures"]["ImageNet's sets"]
    assert list(found) == ["ImageNet-A", "ImageNet-Sketch"]
    assert found["ImageNet-A"]["of"] == "1 images, 1 of 200 classes of the set"
    assert "a class 'cats', which ImageNet-Sketch has not" in found["ImageNet-Sketch"]["why"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["x"], "there is nothing to judge by; give --data or --sets"),
        (["x", "--data", "/nowhere", "--only", "best"], "there is no measure 'best'; choose of top-1, linear, knn"),
        (["a=x", "a=y", "--data", "/nowhere"], "two checkpoints have one name"),
        (["a=", "--data", "/nowhere"], "'a=' names no checkpoint"),
        (["x", "--data", "one/a", "--data", "two/a"], "two data sets have one name"),
        (["x", "--data", "/nowhere"], "/nowhere needs train and val inside"),
        (["x", "--sets", "/nowhere"], "/nowhere has none of ImageNet's sets; their folders are val, validation"),
        (["x", "--data", "ImageNet's sets=/a"], "give the data set another name"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], line: str, tmp_path: Path) -> None:
    done = tinyvit("scorecard", *arguments, "--run-dir", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("tinyvit: ")
    assert line in " ".join(done.stderr.split())
