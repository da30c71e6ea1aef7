"""Stage 1 with the real teacher: what is stored is what the teacher said, however the run went."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from support import command, label_all, left_running, marked_environment, small_arguments, tinyvit, wait_until
from toy import assert_equal_stores
from webdataset.writer import TarWriter

from logitstore import Claims, LogitStore, Unit
from tinyvit.config import Recipe
from tinyvit.data.index import ShardIndex, index_shards
from tinyvit.data.location import ShardLocation, resolve_data
from tinyvit.data.render_views import render_views
from tinyvit.errors import UserError
from tinyvit.labelling.label import Labeller, open_for_labelling
from tinyvit.labelling.verify_logits import replay_faults
from tinyvit.models.teachers import Teacher, load_teacher
from tinyvit.runtime.progress import LogProgress
from tinyvit.targets.losses import distillation_loss
from tinyvit.targets.signal import TeacherSignal


def index_of(recipe: Recipe) -> ShardIndex:
    return index_shards(recipe.data.train, LogProgress())


def live_views(store: LogitStore, recipe: Recipe, epoch: int, shard: int, count: int) -> torch.Tensor:
    """The first views of a shard and epoch, made again."""
    source, rows = index_of(recipe).shard(shard), store.read(epoch, shard)
    size = recipe.label.input_size or 0
    made = render_views(source, range(count), rows.seed, recipe.label.augment, recipe.data.decode, size)
    return torch.from_numpy(np.stack(list(made.whole().values())))


def test_stored_loss_equals_the_live_teachers_within_the_encoding(
    small_store: LogitStore, small_recipe: Recipe, teacher: Teacher
) -> None:
    for epoch, shard in ((0, 0), (1, 1), (2, 0)):
        live_logits = teacher.logits(live_views(small_store, small_recipe, epoch, shard, 64))
        live = TeacherSignal.from_logits(live_logits, small_store.spec.top_k)
        rows = small_store.read(epoch, shard)
        stored = TeacherSignal(
            torch.from_numpy(rows.class_id[:64].astype(np.int64)),
            torch.from_numpy(rows.probability[:64]),
            torch.from_numpy(rows.residual[:64]),
            small_store.spec.num_classes,
        )
        one, two = (torch.zeros(64, 1000).scatter(1, s.class_id, s.probability) for s in (stored, live))
        # Half a level of sqrt(p) a class; the best class, the remainder, may be off by the sum of some.
        assert (one.sqrt() - two.sqrt()).abs().max() < 1.5 / 320
        assert (stored.residual.sqrt() - live.residual.sqrt()).abs().max() < 0.5 * math.pi / 510
        student = torch.randn(64, 1000, generator=torch.Generator().manual_seed(epoch))
        for residual in ("uniform", "ghost", "renormalise"):
            losses = [distillation_loss(student, s, residual).mean() for s in (stored, live)]
            # Nats, of a loss of about 7. What is left out moves between classes whose log q differ by a few nats.
            assert abs(losses[0] - losses[1]) < 5e-3, residual


def test_the_teacher_knows_what_it_sees(teacher: Teacher) -> None:
    """Coffee is espresso (class 967): weights, class order and normalisation are right."""
    coffee = Image.fromarray(skimage.data.coffee()).resize((224, 224), Image.Resampling.BICUBIC)
    logits = teacher.logits(torch.from_numpy(np.array(coffee))[None])
    assert logits.softmax(dim=1)[0, 967] > 0.9
    assert teacher.classes is not None
    assert "espresso" in teacher.classes[967]


def test_number_of_workers_changes_no_bit(
    small_store: LogitStore, small_recipe: Recipe, teacher: Teacher, tmp_path: Path
) -> None:
    assert_equal_stores(label_all(small_recipe, tmp_path / "s", teacher, workers=2), small_store)


def test_units_labelled_one_at_a_time_are_the_same(
    small_store: LogitStore, small_recipe: Recipe, teacher: Teacher, tmp_path: Path
) -> None:
    store = open_for_labelling(small_recipe, tmp_path / "s", teacher, index_of(small_recipe))
    for unit in reversed(store.missing()):
        with Claims(store) as claims:
            list(Labeller(store, small_recipe, teacher, index_of(small_recipe), 0, LogProgress(), claims).label([unit]))
    assert_equal_stores(store, small_store)


def test_a_run_killed_with_9_and_resumed_makes_the_same_store(
    small_store: LogitStore,
    small_recipe: Recipe,
    teacher: Teacher,
    small_data: Path,
    tmp_path: Path,
    short_folder: Path,
) -> None:
    path, temporary = tmp_path / "s", short_folder
    store = open_for_labelling(small_recipe, path, teacher, index_of(small_recipe))
    arguments = command("label", "example", "--store", path, "--workers", "1", *small_arguments(small_data))
    with Claims(store) as ours:
        # The run cannot end before it is killed: this unit is ours.
        assert list(ours.free([Unit(1, 1)]))
        environment = marked_environment(str(path)) | {"TMPDIR": str(temporary)}
        run = subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        wait_until(lambda: any((path / "committed" / "c").rglob("*")), run)
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert left_running(str(path)) == []
    missing = store.missing()
    assert Unit(1, 1) in missing
    done = tinyvit("label", "example", "--store", path, "--workers", "1", "--json", *small_arguments(small_data))
    assert done.returncode == 0, done.stderr
    assert f'"units_labelled_now": {len(missing)}' in done.stdout
    assert_equal_stores(LogitStore.open(path), small_store)
    # Neither in the store nor in the temporary folder is anything left of the killed run, but torch's own cache.
    assert [key for key, _ in store.objects.sizes("committed/") if not key.startswith("committed/c/")] == [
        "committed/zarr.json"
    ]
    assert not list(path.rglob("*.partial"))
    assert [file for file in temporary.iterdir() if not file.name.startswith("torchinductor")] == []


def test_a_sealed_store_is_not_labelled_again(small_store: LogitStore, small_data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "s"
    shutil.copytree(small_store.location, copy)
    done = tinyvit("label", "example", "--store", copy, "--json", *small_arguments(small_data))
    assert done.returncode == 0, done.stderr
    assert '"units_labelled_now": 0' in done.stdout
    assert LogitStore.open(copy).sealed == small_store.sealed


def test_a_teacher_of_ones_own_answers_what_is_not_finite_as_invalid(
    small_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_teacher.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        m = x.mean(dim=(1, 2, 3))\n"
        "        out = torch.stack([m, -m, m * 0, m + 1], dim=1)\n"
        "        out[m > m.median()] = float('nan')\n"
        "        return out\n"
        "def make():\n"
        "    return Net()\n"
    )
    monkeypatch.chdir(tmp_path)
    own = load_teacher("python:own_teacher:make", torch.device("cpu"), None)
    label = small_recipe.label.model_copy(update={"teacher": own.name, "top_k": 2})
    recipe = small_recipe.model_copy(update={"labelling": label})
    store = label_all(recipe, tmp_path / "s", own)
    valid = np.concatenate([store.read(e, s).valid for e in range(3) for s in range(2)])
    assert 0.3 < valid.mean() < 0.7
    assert store.class_names is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_one_line_and_the_store_goes_on_from_there(
    small_store: LogitStore, small_data: Path, tmp_path: Path, number: int
) -> None:
    path = tmp_path / "s"
    arguments = command("label", "example", "--store", path, "--workers", "1", *small_arguments(small_data))
    # A session of its own, so that the signal reaches the whole group, as from a terminal, but not this test.
    run = subprocess.Popen(
        arguments, env=marked_environment(str(path)), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_until(lambda: any(path.glob("committed/c/*/*")), run)
    os.killpg(run.pid, number)
    _, stderr = run.communicate(timeout=60)
    assert run.returncode == 128 + number, stderr
    assert "Traceback" not in stderr
    assert "tinyvit: interrupted; what was committed stays" in stderr
    assert left_running(str(path)) == []
    assert not any(path.joinpath("committed", "runs").iterdir())
    assert tinyvit("label", "example", "--store", path, *small_arguments(small_data)).returncode == 0
    assert_equal_stores(LogitStore.open(path), small_store)


def test_a_killed_data_process_is_one_line(small_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "s"
    arguments = command("label", "example", "--store", path, "--workers", "1", *small_arguments(small_data))
    run = subprocess.Popen(arguments, env=marked_environment(str(path)), stderr=subprocess.PIPE, text=True)
    wait_until(lambda: any(path.glob("committed/c/*/*")), run)
    (data_process,) = (other for child in children(run.pid) for other in children(child))
    os.kill(data_process, signal.SIGKILL)
    _, stderr = run.communicate(timeout=60)
    assert run.returncode == 2, stderr
    line = stderr.strip().splitlines()[-1]
    assert line.startswith(f"tinyvit: data process {data_process} was killed by SIGKILL (out of memory?)")
    assert "Traceback" not in stderr
    assert left_running(str(path)) == []


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]


# Four classes by the brightness of a view, as `answer` has it, where nothing else is said.
OWN_TEACHER = """
import torch
class Net(torch.nn.Module):
    def forward(self, x):
        m = x.mean(dim=(1, 2, 3))
        out = torch.stack([m, -m, m * 0, m + 1], dim=1)
        {change}
        return out
def make():
    return Net()
"""


def own(
    recipe: Recipe, folder: Path, name: str, change: str, monkeypatch: pytest.MonkeyPatch, **label: Any
) -> tuple[Recipe, Teacher]:
    """A teacher in a module of this name, whose logits are changed by a line of code, and a recipe that asks it."""
    (folder / f"{name}.py").write_text(OWN_TEACHER.format(change=change))
    monkeypatch.chdir(folder)
    labelling = recipe.label.model_copy(update={"teacher": f"python:{name}:make", "top_k": 3, **label})
    asked = load_teacher(labelling.teacher, torch.device("cpu"), None)
    return recipe.model_copy(update={"labelling": labelling}), asked


@pytest.mark.parametrize(
    ("select", "encoding"), [("top_k", "compact"), ("top_k", "exact"), ("mass", "compact"), ("sampled", "counts")]
)
def test_a_masked_class_is_impossible_offline_as_online(
    small_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, select: str, encoding: str
) -> None:
    changes: dict[str, Any] = {"select": select, "mass": 1.0 if select == "mass" else None, "encoding": encoding}
    change = "out[:, 1:3] = float('-inf')"
    recipe, masked = own(small_recipe, tmp_path, "masked_teacher", change, monkeypatch, **changes)
    store = label_all(recipe, tmp_path / "s", masked)
    rows = store.read(0, 0)
    assert rows.valid.all()
    assert set(rows.class_id.flatten().tolist()) <= {0, 3}
    assert ((rows.probability > 0).sum(axis=1) <= 2).all()
    assert (rows.residual < 1e-6).all()
    logits = masked.logits(live_views(store, recipe, 0, 0, 64))
    seeds = torch.from_numpy(rows.seed[:64].astype(np.int64))
    live = TeacherSignal.selected(logits, select, 3, changes["mass"], seeds)
    ids, p = torch.from_numpy(rows.class_id[:64].astype(np.int64)), torch.from_numpy(rows.probability[:64])
    one = torch.zeros(64, 4).scatter_add(1, ids, p)
    two = torch.zeros(64, 4).scatter_add(1, live.class_id, live.probability)
    assert torch.allclose(one, two, rtol=0, atol=0.01 if encoding == "compact" else 1e-6)
    asked, faults = replay_faults(store, recipe.data.train, masked, store.units(), 16, 0, LogProgress())
    assert (asked, faults) == (16, [])


@pytest.mark.parametrize("change", ["out[:] = float('nan')", "out[:] = float('-inf')", "out[:, 2] = float('inf')"])
def test_a_unit_without_an_answer_stops_the_run(
    small_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    recipe, silent = own(small_recipe, tmp_path, "silent_teacher", change, monkeypatch)
    with pytest.raises(
        UserError,
        match=r"epochs \d to \d of train-00000\d.tar: .* has no finite logits for any of the \d+ views",
    ):
        label_all(recipe, tmp_path / "s", silent)
    opened = LogitStore.open(tmp_path / "s")
    assert len(opened.missing()) == len(opened.units())
    monkeypatch.delitem(sys.modules, "silent_teacher")


def test_a_shard_of_broken_images_stops_the_run(
    small_recipe: Recipe, teacher: Teacher, small_data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    with TarWriter(str(folder / "a.tar"), encoder=False) as tar:
        for number in range(3):
            tar.write({"__key__": f"p{number}", "png": b"no image", "cls": b"0"})
    recipe = resolve_data(small_recipe, folder)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"broken": "skip"})})
    with pytest.raises(UserError, match=r"a.tar: none of the \d views can be made, as no image can be decoded"):
        label_all(recipe, tmp_path / "s", teacher)


def test_each_shard_is_asked_about_once(
    small_recipe: Recipe, teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, stat = list[str](), ShardLocation.stat

    def counted(place: ShardLocation, name: str) -> tuple[int, int]:
        asked.append(name)
        return stat(place, name)

    monkeypatch.setattr(ShardLocation, "stat", counted)
    label_all(small_recipe, tmp_path / "s", teacher)
    assert len(asked) == len(set(asked)) == 2
