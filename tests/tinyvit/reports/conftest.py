"""A browser; a store and its shards whose keys and class names are scripts."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright
from support import EXAMPLE, SMALL, label_all, samples_of

from logitstore import LogitStore
from tinyvit.config import load_recipe
from tinyvit.data.location import resolve_data
from tinyvit.models.teachers import Teacher, load_teacher

SCRIPT = "</script><script>window.hacked=1</script>"
IMAGE = "<img src=x onerror=window.hacked=1>"
IMAGES = 40
CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="session")
def foreign(teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> tuple[LogitStore, Path]:
    """Three views of each of 40 images; the labels are ids of the teacher's classes, 600 to 602 in turn."""
    folder = tmp_path_factory.mktemp("foreign")
    names = [f"{SCRIPT} class {number}, also {IMAGE}" for number in range(teacher.num_classes)]
    (folder / "shards").mkdir()
    for file in (folder / "names.txt", folder / "shards" / "classes.txt"):
        file.write_text("\n".join(names) + "\n")
    with tarfile.open(folder / "shards" / "a.tar", "w") as tar:
        for number, sample in enumerate(samples_of(EXAMPLE / "val")[:IMAGES]):
            for suffix, content in (("png", sample.image), ("cls", str(600 + number % 3).encode())):
                entry = tarfile.TarInfo(f"{IMAGE}{SCRIPT}{number:02}.{suffix}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    recipe = resolve_data(load_recipe("example", [*SMALL, f"label.classes={folder / 'names.txt'}"]), folder / "shards")
    named = load_teacher(recipe.label.teacher, teacher.device, recipe.label.classes)
    return label_all(recipe, folder / "store", named), folder / "shards"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, without a window."""
    if CHROMIUM is None:
        pytest.skip("no chromium: apt-get install chromium")
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()
