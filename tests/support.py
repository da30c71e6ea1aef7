"""What tests share: the small recipe, the command line, a process without some packages."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forked import run_forked
from PIL import Image

from logitstore import LogitStore
from logitstore.objects import open_objects
from tinyvit.config import Decode, Recipe
from tinyvit.data.index import index_shards
from tinyvit.data.shards import Sample
from tinyvit.labelling.label import label_store
from tinyvit.models.teachers import Teacher
from tinyvit.runtime.progress import LogProgress
from tinyvit.views.images import EncodedImage

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "fashion-mnist"

# Small enough for seconds, large enough for two blocks of epochs and two shards.
SMALL = (
    "label.epochs=3",
    "label.epochs_per_unit=2",
    "label.input_size=32",
    "student.kwargs.img_size=32",
    "stages.distill.epochs=2",
    "stages.distill.batch_size=50",
    "stages.finetune.epochs=2",
    "stages.finetune.batch_size=50",
)
# A search of three rounds, within bounds that no clock decides about: its path is the same each time.
SHORT_SEARCH = (
    *SMALL,
    "student.kwargs={img_size: 32, embed_dims: [32, 64, 96, 128], depths: [1, 1, 2, 1], num_heads: [2, 4, 6, 8], "
    "window_sizes: [4, 4, 4, 2]}",
    "contract.budget={parameters: 0.3e+6, macs: 3.0e+6}",
    "contract.tighten=0.6",
    "contract.candidates=2",
    "contract.epochs=1",
    "contract.seed_epochs=1",
    "contract.share=0.5",
    "contract.held_out=0.5",
    "contract.held_out_epochs=1",
    "contract.repeats=1",
    "contract.batch_size=2",
)
# Sixteen short units of the small data.
MANY_UNITS = ("label.input_size=32", "label.epochs=8", "label.epochs_per_unit=1")


def samples_of(data: Path) -> list[Sample]:
    """Every sample of a folder of shards, read by its index."""
    return [sample for shard in index_shards(data, LogProgress()).shards() for sample in shard.read_all()]


def bytes_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """An image as a shard would have it."""
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> EncodedImage:
    """An image as a shard would have it, read as usual."""
    return EncodedImage(bytes_of(image, kind, **options), Decode())


def upload(folder: Path, url: str) -> None:
    """Copy the shards and class names in a folder, and in folders inside, into a bucket."""
    objects = open_objects(url)
    for file in (*folder.rglob("*.tar"), *folder.rglob("classes.txt")):
        objects.put(file.relative_to(folder).as_posix(), file.read_bytes())


def label_all(recipe: Recipe, path: str | Path, teacher: Teacher, workers: int = 0) -> LogitStore:
    """Label what is missing, verify and seal."""
    return label_store(recipe, path, teacher, workers, LogProgress())[0]


def tinyvit(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end, in a process of its own that has imported torch already."""
    return run_forked([str(a) for a in arguments], cwd)


def started(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end from its very start, as a user does."""
    return subprocess.run(command(*arguments), cwd=cwd, capture_output=True, text=True, check=False)


def command(*arguments: object) -> list[str]:
    """The command line that runs the installed `tinyvit`."""
    return [str(Path(sys.executable).parent / "tinyvit"), *(str(a) for a in arguments)]


def torchrun(*arguments: object, ranks: int = 2) -> list[str]:
    """The command that trains on so many ranks of this machine."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks),
            "-m", "tinyvit", "train", *(str(a) for a in arguments)]  # fmt: skip


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[Any], seconds: float = 120) -> None:
    """Wait for a condition that a running process is to bring about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        assert process.poll() is None, "the process ended first"
        time.sleep(0.01)


def marked_environment(mark: str) -> dict[str, str]:
    """An environment by which `left_running` knows every process that descends from the one started with it."""
    return os.environ | {"TINYVIT_TEST_MARK": mark}


def left_running(mark: str, seconds: float = 20) -> list[str]:
    """Command lines of the processes with this mark that are still there after a while."""
    deadline = time.monotonic() + seconds
    while (found := _marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def _marked(mark: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"TINYVIT_TEST_MARK={mark}".encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:  # it ended while we looked
            continue
    return [line for line in found if line]


def small_arguments(data: Path) -> list[str]:
    """Command-line arguments of the small recipe."""
    return ["--data", str(data), *(part for override in SMALL for part in ("--set", override))]
