"""Stage 2: joined with the store, resumed after a kill, loadable by plain timm."""

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from support import command, small_arguments, tinyvit, wait_until

from storage import LogitStore
from tinyvit.config import Recipe
from tinyvit.data.images import decode
from tinyvit.data.join import checked_samples, indexed_shards
from tinyvit.data.loader import run_stream
from tinyvit.data.training_views import Batch, TrainingViews
from tinyvit.replay import view, view_digest
from tinyvit.students import load_weights


def stream(store: LogitStore, recipe: Recipe, **changes: object) -> TrainingViews:
    views = TrainingViews(
        shards=tuple(indexed_shards(recipe.data.train, store.table)),
        augment=recipe.label.augment,
        size=32,
        batch_size=50,
        epoch=0,
        run_seed=0,
        order_seed=0,
        store=store.location,
        store_epoch=1,
    )
    return replace(views, **changes)  # type: ignore[arg-type]


def by_pixels(store: LogitStore, recipe: Recipe, epoch: int) -> dict[int, tuple[int, int]]:
    """Where each view of a stored epoch belongs: digest of its pixels -> (shard, slot)."""
    found = {}
    for shard in indexed_shards(recipe.data.train, store.table):
        rows = store.read(epoch, shard.number)
        for sample in checked_samples(shard):
            pixels = view(decode(sample.image), int(rows.seed[sample.slot]), recipe.label.augment, 32)
            found[view_digest(pixels)] = (shard.number, sample.slot)
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_every_view_arrives_once_with_its_own_row(small_store: LogitStore, small_recipe: Recipe, workers: int) -> None:
    places = by_pixels(small_store, small_recipe, epoch=1)
    rows = [small_store.read(1, shard) for shard in range(2)]
    seen = []
    for batch in run_stream(stream(small_store, small_recipe), workers):
        assert batch.class_id is not None
        for i, pixels in enumerate(batch.views.numpy()):
            shard, slot = places[view_digest(pixels)]
            assert (batch.class_id[i].numpy() == rows[shard].class_id[slot]).all()
            assert np.array_equal(batch.probability[i].numpy(), rows[shard].probability[slot])
            assert batch.residual[i] == float(rows[shard].residual[slot])
            seen.append((shard, slot))
    assert len(seen) == len(set(seen)) == 500


def digests(batches: list[Batch]) -> list[list[int]]:
    return [[view_digest(v) for v in batch.views.numpy()] for batch in batches]


def test_order_is_reproducible_and_differs_between_epochs(small_store: LogitStore, small_recipe: Recipe) -> None:
    first, again, other, more = (
        digests(list(stream(small_store, small_recipe, **change).read(0, 1)))
        for change in ({}, {}, {"epoch": 1}, {"order_seed": 1})
    )
    assert first == again
    assert first != other != more
    assert {d for b in first for d in b} == {d for b in other for d in b}


def test_steps_and_left_out_images_are_counted_beforehand(small_store: LogitStore, small_recipe: Recipe) -> None:
    for workers, batch_size in ((0, 64), (1, 64), (2, 64), (2, 50)):
        views = stream(small_store, small_recipe, batch_size=batch_size)
        read = sum(len(list(views.read(w, max(1, workers)))) for w in range(max(1, workers)))
        assert read == views.batches(workers)
        assert read * batch_size + views.left_out(workers) == 500


def test_invalid_rows_are_skipped_and_counted(
    small_store: LogitStore, small_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LogitStore.read

    def with_gaps(store: LogitStore, epoch: int, shard: int):  # type: ignore[no-untyped-def]
        rows = real(store, epoch, shard)
        valid = rows.valid.copy()
        valid[::5] = False
        return replace(rows, valid=valid)

    monkeypatch.setattr(LogitStore, "read", with_gaps)
    batches = list(stream(small_store, small_recipe, batch_size=20).read(0, 1))
    assert sum(len(b.labels) for b in batches) == 400
    assert sum(b.skipped for b in batches) >= 99  # one that follows the last view has no batch to be told by


def train_arguments(run: Path, store: Path, data: Path) -> list[str]:
    return [
        "train",
        "example",
        "--run-dir",
        str(run),
        "--store",
        str(store),
        "--workers",
        "1",
        *small_arguments(data),
    ]


@pytest.fixture(scope="module")
def trained(small_store: LogitStore, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    done = tinyvit(*train_arguments(run, small_store.location, small_data), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert list(document) == ["distill", "finetune"]
    assert document["finetune"]["val"]["images"] == 250
    return run


def test_a_run_killed_with_9_and_resumed_ends_in_identical_weights(
    trained: Path, small_store: LogitStore, small_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = train_arguments(run, small_store.location, small_data)
    process = subprocess.Popen(command(*arguments), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wait_until((run / "distill" / "metrics.jsonl").exists, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    epochs = len((run / "distill" / "metrics.jsonl").read_text().splitlines())
    assert epochs < 2, "the kill came too late to prove anything"
    done = tinyvit(*arguments)
    assert done.returncode == 0, done.stderr
    assert "resumed after epoch 1 of 2" in " ".join(done.stderr.split())
    for stage in ("distill", "finetune"):
        whole, resumed = load_weights(trained / stage), load_weights(run / stage)
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_plain_timm_loads_the_checkpoint(trained: Path, small_recipe: Recipe) -> None:
    student = small_recipe.student
    kwargs = {k: tuple(v) if isinstance(v, list) else v for k, v in student.kwargs.items() if k != "img_size"}
    file = str(trained / "finetune" / "model.safetensors")
    told = timm.create_model(student.name, num_classes=10, checkpoint_path=file, **kwargs)
    folder = timm.create_model(f"local-dir:{trained / 'finetune'}", pretrained=True)
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.equal(told.eval()(pixels), folder.eval()(pixels))
    assert list(folder.pretrained_cfg["input_size"]) == [3, 32, 32]


def test_a_finished_stage_is_not_trained_again(trained: Path, small_store: LogitStore, small_data: Path) -> None:
    before = (trained / "finetune" / "state.pt").stat().st_mtime_ns
    done = tinyvit(*train_arguments(trained, small_store.location, small_data))
    assert done.returncode == 0, done.stderr
    assert (trained / "finetune" / "state.pt").stat().st_mtime_ns == before


def test_a_run_folder_of_another_recipe_is_refused(trained: Path, small_store: LogitStore, small_data: Path) -> None:
    done = tinyvit(*train_arguments(trained, small_store.location, small_data), "--set", "stages.distill.lr=0.5")
    assert done.returncode == 2
    assert "holds a stage of another recipe" in done.stderr


def test_evaluate_and_export_agree_with_training(trained: Path, small_data: Path, tmp_path: Path) -> None:
    recorded = json.loads((trained / "finetune" / "result.json").read_text())["val"]["top1"]
    out = tmp_path / "exported"
    exported = tinyvit("export", trained / "finetune", out, "--json")
    assert exported.returncode == 0, exported.stderr
    assert {f.name for f in out.iterdir()} == {"model.safetensors", "config.json", "classes.txt", "README.md"}
    done = tinyvit("evaluate", out, "--data", small_data / "val", "--json")
    assert json.loads(done.stdout)["top1"] == pytest.approx(recorded, abs=0.5)


def test_training_on_labels_needs_no_store(small_data: Path, tmp_path: Path) -> None:
    done = tinyvit(
        "train",
        "example",
        "--run-dir",
        tmp_path,
        "--stage",
        "finetune",
        "--json",
        *small_arguments(small_data),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["finetune"]["last"]["images"] == 500
