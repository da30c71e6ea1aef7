"""What a user can get wrong: one line that says what and what to do, exit code 2, nothing half-done."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from support import EXAMPLE, ROOT, samples_of, small_arguments, tinyvit
from toy import assert_equal_stores

from logitstore import LogitStore
from tinyvit.config import load_recipe, recipe_names
from tinyvit.datasets.make import write_shards
from tinyvit.datasets.sources import SourceImage
from tinyvit.errors import UserError
from tinyvit.runtime.progress import LogProgress


def assert_one_line(arguments: list[str], *words: str) -> None:
    done = tinyvit(*arguments)
    assert done.returncode == 2, (done.returncode, done.stderr)
    lines = [line for line in done.stderr.splitlines() if line.startswith("tinyvit: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in lines[0]


def label(store: str | Path, data: Path, *more: str) -> list[str]:
    return ["label", "example", "--store", str(store), "--workers", "1", *small_arguments(data), *more]


def train(tmp: Path, store: str | Path, data: Path, *more: str) -> list[str]:
    return [
        "train",
        "example",
        "--store",
        str(store),
        "--run-dir",
        str(tmp / "run"),
        *small_arguments(data),
        *more,
    ]


def reset(key: str, value: str) -> list[str]:
    return ["--set", f"{key}={value}"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (reset("label.teacher", "resnet"), ["'resnet' is not understood", "timm:NAME"]),
        (reset("label.teacher", "timm:vit_enormous"), ["timm has no model 'vit_enormous'"]),
        (reset("label.teacher", "timm:resnet18@/nowhere.pth"), ["there is no file /nowhere.pth"]),
        (reset("label.teacher", "pypi:efficientnet-lite9"), ["efficientnet-lite0"]),
        (reset("label.teacher", "python:no_module:f"), ["cannot be made (ModuleNotFoundError", "'no_module'"]),
        (reset("label.top_k", "1001"), ["top_k=1001 does not fit 1000 classes"]),
        (reset("label.topk", "3"), ["label.topk"]),
        (reset("data.background", "whit"), ["data.background", "unknown color specifier: 'whit'"]),
        (reset("data.background", "'#ffffff80'"), ["data.background", "give a colour such as white"]),
        (reset("data.orientation", "up"), ["data.orientation", "'exif' or 'ignore'"]),
        (reset("label.encoding", "tiny"), ["should be 'compact', 'fine'"]),
        (["--set", "label.epochs"], ["section.field=value"]),
        (["--data", "/nowhere"], ["no data folder /nowhere"]),
    ],
)
def test_label_refuses(small_data: Path, tmp_path: Path, more: list[str], words: list[str]) -> None:
    assert_one_line(label(tmp_path / "s", small_data, *more), *words)
    assert not (tmp_path / "s").exists()


def test_a_misspelt_recipe_names_those_there_are(small_data: Path, tmp_path: Path) -> None:
    assert_one_line(["label", "exmaple", "--store", str(tmp_path / "s")], "no recipe 'exmaple'", "example")


def test_a_folder_without_shards(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert_one_line(label(tmp_path / "s", tmp_path / "empty"), "holds no .tar shards")


def broken_data(folder: Path, change: Callable[[list[SourceImage]], list[SourceImage]]) -> Path:
    """A shard of 40 real images with something wrong in it."""
    samples = samples_of(EXAMPLE / "train")[:40]
    images = change([SourceImage(s.key, "png", s.image, s.label or 0) for s in samples])
    write_shards(images, folder, classes=list("abcdefghij"), per_shard=100, seed=0, progress=LogProgress())
    return folder


def broken_image(images: list[SourceImage]) -> list[SourceImage]:
    bad = images[7]
    assert isinstance(bad.content, bytes)
    return [*images[:7], SourceImage("broken", "png", bad.content[:200], 1), *images[8:]]


def test_a_broken_image_stops_labelling_or_becomes_an_invalid_row(tmp_path: Path) -> None:
    data = broken_data(tmp_path / "d", broken_image)
    assert_one_line(label(tmp_path / "s", data), "'broken' cannot be decoded", "data.broken=skip")
    assert len(LogitStore.open(tmp_path / "s").missing()) == 2, "nothing of the unit may count as done"
    done = tinyvit(*label(tmp_path / "s", data, "--set", "data.broken=skip", "--json"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["views_without_answer"] == 3
    rows = LogitStore.open(tmp_path / "s").read(0, 0)
    assert (~rows.valid).sum() == 1


def test_a_cut_tar_and_duplicate_keys(small_data: Path, tmp_path: Path) -> None:
    shutil.copytree(small_data, tmp_path / "d")
    shard = min((tmp_path / "d" / "train").glob("*.tar"))
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    assert_one_line(label(tmp_path / "s", tmp_path / "d"), shard.name, "again")
    shard.write_bytes(content)
    shutil.copy(shard, shard.with_name("zz.tar"))
    assert_one_line(label(tmp_path / "s", tmp_path / "d"), "occurs twice")
    assert not (tmp_path / "s").exists()


def other_data(tmp_path: Path) -> Path:
    return broken_data(tmp_path / "other", lambda images: images)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            reset("label.teacher", "pypi:efficientnet-lite1"),
            ["pypi:efficientnet-lite0", "pypi:efficientnet-lite1"],
        ),
        (reset("label.augment.hflip", "0.1"), ["augment.hflip is 0.5 in the store, 0.1"]),
        (
            reset("data.background", "white"),
            ["decode.background is None in the store, 'white' here", "read images as it does"],
        ),
        (reset("data.orientation", "ignore"), ["decode.orientation is 'exif' in the store, 'ignore' here"]),
        (reset("stages.distill.top_k", "500"), ["wants top_k 500, the store holds 20"]),
        (reset("label.classes", "CLASSES"), ["class 0 is called"]),
        (["--data", "OTHER"], ["is in the store, not in the data"]),
    ],
)
def test_training_refuses_a_store_of_something_else(
    small_store: LogitStore, small_data: Path, tmp_path: Path, more: list[str], words: list[str]
) -> None:
    (tmp_path / "names.txt").write_text("\n".join(f"class {i}" for i in range(1000)))
    places = {
        "OTHER": str(other_data(tmp_path)),
        "label.classes=CLASSES": f"label.classes={tmp_path / 'names.txt'}",
    }
    more = [places.get(part, part) for part in more]
    assert_one_line(train(tmp_path, small_store.location, small_data, *more), "does not match this run", *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (reset("label.top_k", "5"), ["top_k is 20 in the store, 5 here"]),
        (reset("label.seed", "5"), ["run_seed is 0 in the store, 5 here"]),
        (reset("data.background", "white"), ["decode.background is None in the store, 'white' here"]),
        (reset("label.input_size", "48"), ["teacher.input_size is 32 in the store, 48 here"]),
    ],
)
def test_labelling_refuses_to_add_to_a_store_of_something_else(
    small_store: LogitStore, small_data: Path, more: list[str], words: list[str]
) -> None:
    assert_one_line(label(small_store.location, small_data, *more), "does not match this run", *words)
    assert LogitStore.open(small_store.location).sealed


def test_replay_that_gives_other_pixels_is_refused(small_store: LogitStore, small_data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "s"
    shutil.copytree(small_store.location, copy)
    opened = LogitStore.open(copy)
    for unit in opened.units():
        rows = opened.read_unit(unit)
        opened.write_unit(unit, replace(rows, view_digest=rows.view_digest + np.uint32(1)))
    opened.seal()
    assert_one_line(train(tmp_path, copy, small_data), "cannot be remade", "has the checksum", "in the store it has")


RESAMPLED = """
import sys
import tinyvit.runtime.provenance as provenance
import tinyvit.views.augmentation as augmentation
from tinyvit.cli.main import main

# A release of torch whose resampling gives other pixels.
resize, versions = augmentation.interpolate, provenance.library_versions
augmentation.interpolate = lambda *a, **k: resize(*a, **(k | {"antialias": False}))
provenance.library_versions = lambda: versions() | {"torch": "99.0"}
main()
"""


def test_a_library_that_resamples_otherwise_is_refused_with_both_versions(
    small_store: LogitStore, small_data: Path, tmp_path: Path
) -> None:
    # In this process, where the other library is.
    arguments = train(tmp_path, small_store.location, small_data, "--workers", "0")
    done = subprocess.run(
        [sys.executable, "-c", RESAMPLED, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    line = " ".join(done.stderr.split())
    assert "cannot be remade: the view of 'train-" in line
    assert "has the checksum" in line
    assert f"torch was {version('torch')}, is 99.0: install the versions of then, or label again" in line
    assert not (tmp_path / "run").exists()


def test_an_unsealed_and_an_absent_store_are_refused(small_store: LogitStore, small_data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "s"
    shutil.copytree(small_store.location, copy)
    opened = LogitStore.open(copy)
    opened.uncommit(opened.units()[0])
    assert_one_line(train(tmp_path, copy, small_data), "is not sealed (3 of 4 units are there)")
    assert_one_line(train(tmp_path, tmp_path / "none", small_data), "no logit store at")
    assert_one_line(["store", "info", str(tmp_path)], "no logit store at")


def test_a_student_that_timm_cannot_make(small_store: LogitStore, small_data: Path, tmp_path: Path) -> None:
    for change, word in (
        ("student.name=tiny_vit_9m", "no model 'tiny_vit_9m'"),
        ("student.kwargs.colour=1", "colour"),
    ):
        assert_one_line(train(tmp_path, small_store.location, small_data, "--set", change), word)


@pytest.fixture
def small_disk(small_store: LogitStore, tmp_path: Path) -> Iterator[Path]:
    """A file system a little too small for the small store: some pages are missing for its last units."""
    folder = tmp_path / "disk"
    folder.mkdir()
    pages = sum(-(-f.stat().st_size // 4096) for f in Path(small_store.location).rglob("*") if f.is_file())
    size = f"size={4096 * (pages - 10)}"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], check=False)
    if mounted.returncode:
        pytest.skip("a small file system can only be mounted by root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_what_was_committed_and_says_so(
    small_store: LogitStore, small_data: Path, small_disk: Path
) -> None:
    assert_one_line(label(small_disk / "s", small_data), str(small_disk / "s"), "the disk is full")
    missing = LogitStore.open(small_disk / "s").missing()
    assert 0 < len(missing) <= 4
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    done = tinyvit(*label(small_disk / "s", small_data, "--json"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["units_labelled_now"] == len(missing)
    assert_equal_stores(LogitStore.open(small_disk / "s"), small_store)


def test_a_place_that_cannot_be_written(small_data: Path) -> None:
    assert_one_line(label(Path("/proc/store"), small_data), "/proc/store")


def test_verify_exits_1_with_the_faulty_unit(small_store: LogitStore, tmp_path: Path) -> None:
    copy = tmp_path / "s"
    shutil.copytree(small_store.location, copy)
    assert tinyvit("store", "verify", copy).returncode == 0
    chunk = copy / "class_step" / "c" / "0" / "1" / "0" / "0"
    content = chunk.read_bytes()
    chunk.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
    done = tinyvit("store", "verify", copy, "--json")
    assert done.returncode == 1
    assert "train-000001.tar" in json.loads(done.stdout)["faults"][0]


def test_recipes_that_come_with_the_package_are_valid() -> None:
    assert "example" in recipe_names()
    for name in recipe_names():
        assert load_recipe(name).digest() == load_recipe(name).digest()
    with pytest.raises(UserError, match=r"stages\.distill\.lr"):
        load_recipe("example", ["stages.distill.lr=-1"])


def test_what_led_to_a_fault_is_kept_and_shown_to_who_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "recipe.yaml"
    broken.write_text("a: [")
    told = tinyvit("plan", broken)
    assert told.returncode == 2
    assert "Traceback" not in told.stderr
    monkeypatch.setenv("TINYVIT_TRACEBACK", "1")
    shown = tinyvit("plan", broken)
    assert shown.returncode == 1
    assert "yaml.parser.ParserError" in shown.stderr
    assert "The above exception was the direct cause" in shown.stderr
