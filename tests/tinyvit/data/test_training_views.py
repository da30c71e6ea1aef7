"""The training stream: exact, whoever reads it. Real worker processes, real ranks."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streams import digests, places, stream
from support import ROOT, SMALL, label_all, small_arguments, tinyvit

from logitstore import LogitStore, Unit
from tinyvit.config import Decode, Recipe, load_recipe
from tinyvit.data.batch import Batch
from tinyvit.data.join import IndexedShard
from tinyvit.data.loader import run_stream, run_streams
from tinyvit.data.location import resolve_data
from tinyvit.data.training_views import Kept, Replayed, TrainingViews
from tinyvit.errors import UserError
from tinyvit.models.teachers import Teacher
from tinyvit.views.images import EncodedImage

MIXED = (*SMALL, "label.augment.mixup_alpha=0.8", "label.augment.cutmix_alpha=1.0")


@pytest.fixture(scope="module")
def mixed_recipe(small_data: Path) -> Recipe:
    return resolve_data(load_recipe("example", MIXED), small_data)


@pytest.fixture(scope="module")
def mixed_store(mixed_recipe: Recipe, teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> LogitStore:
    return label_all(mixed_recipe, tmp_path_factory.mktemp("mixed") / "store", teacher)


@pytest.fixture(scope="module", params=["plain", "mixed"])
def labelled(request: pytest.FixtureRequest) -> tuple[Recipe, LogitStore]:
    """A recipe and its store, with views mixed in pairs or not."""
    names = ("small_recipe", "small_store") if request.param == "plain" else ("mixed_recipe", "mixed_store")
    recipe, store = (request.getfixturevalue(name) for name in names)
    return recipe, store


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_view_arrives_once_with_its_own_row(labelled: tuple[Recipe, LogitStore], workers: int) -> None:
    recipe, store = labelled
    known = places(recipe, store)
    rows = [store.read(1, shard) for shard in range(2)]
    seen = []
    for batch in run_stream(stream(recipe, store), workers):
        signal = batch.signal
        assert signal
        for i, digest in enumerate(digests([batch])[0]):
            shard, slot = known[digest]
            assert (signal.class_id[i].numpy() == rows[shard].class_id[slot]).all()
            assert np.array_equal(signal.probability[i].numpy(), rows[shard].probability[slot])
            assert signal.residual[i] == float(rows[shard].residual[slot])
            seen.append((shard, slot))
    assert len(seen) == len(set(seen)) == 500


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_number_of_workers_changes_no_batch(labelled: tuple[Recipe, LogitStore], workers: int) -> None:
    recipe, store = labelled
    views = stream(recipe, store, batch_size=47)
    assert digests(list(run_stream(views, workers))) == digests(list(views.read(0, 1)))


def test_order_is_reproducible_and_differs_between_epochs_and_seeds(
    small_recipe: Recipe, small_store: LogitStore
) -> None:
    first, again, later, other = (
        digests(list(stream(small_recipe, small_store, **change).read(0, 1)))
        for change in ({}, {}, {"epoch": 1}, {"seed": 1})
    )
    assert first == again
    assert first != later != other != first
    assert {d for b in first for d in b} == {d for b in later for d in b}


def test_steps_and_left_out_views_are_counted_beforehand(small_recipe: Recipe, small_store: LogitStore) -> None:
    for world, batch_size, first in ((1, 64, 0), (2, 64, 0), (3, 50, 0), (1, 47, 94), (7, 20, 13)):
        ranks = [
            stream(small_recipe, small_store, batch_size=batch_size, world_size=world, start=first, rank=rank)
            for rank in range(world)
        ]
        assert {len(list(views.read(0, 1))) for views in ranks} == {ranks[0].steps}
        assert first + ranks[0].steps * batch_size + ranks[0].left_out == 500


def torchrun(out: Path, recipe_changes: tuple[str, ...], data: Path, store: LogitStore, ranks: int, **changes: int):  # type: ignore[no-untyped-def]
    """What each rank of a real torchrun read: [rank][step][view]."""
    arguments = [str(data), store.location, str(out / "read.json"), json.dumps(changes), json.dumps(recipe_changes)]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks),
         str(Path(__file__).with_name("streams.py")), *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((out / "read.json").read_text())


def test_two_ranks_take_the_same_views_in_the_same_steps_as_one(
    mixed_recipe: Recipe, mixed_store: LogitStore, small_data: Path, tmp_path: Path
) -> None:
    ranks = torchrun(tmp_path, MIXED, small_data, mixed_store, 2, batch_size=48)
    assert [len(steps) for steps in ranks] == [500 // 48] * 2
    alone = digests(list(stream(mixed_recipe, mixed_store, batch_size=48).read(0, 1)))
    assert [one + two for one, two in zip(*ranks, strict=True)] == alone
    seen = [view for steps in ranks for batch in steps for view in batch]
    assert len(seen) == len(set(seen)) == 480
    assert set(seen) <= set(places(mixed_recipe, mixed_store))


def test_an_epoch_goes_on_with_the_next_unseen_view(
    small_recipe: Recipe, small_store: LogitStore, small_data: Path, tmp_path: Path
) -> None:
    whole = digests(list(stream(small_recipe, small_store, batch_size=30).read(0, 1)))
    seen = 5 * 30
    resumed = digests(list(run_stream(stream(small_recipe, small_store, batch_size=30, start=seen), 2)))
    assert whole[:5] + resumed == whole
    # On two ranks, which together take another number of views a step.
    ranks = torchrun(tmp_path, SMALL, small_data, small_store, 2, batch_size=50, start=seen)
    after = [view for step in zip(*ranks, strict=True) for batch in step for view in batch]
    before = [view for batch in whole[:5] for view in batch]
    assert not set(before) & set(after)
    assert len(set(after)) == len(after) == 350
    assert set(before) | set(after) == set(places(small_recipe, small_store))


@pytest.fixture
def gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fifth row of what the store holds is invalid."""
    real = LogitStore.read

    def with_gaps(store: LogitStore, epoch: int, shard: int):  # type: ignore[no-untyped-def]
        rows = real(store, epoch, shard)
        valid = rows.valid.copy()
        valid[::5] = False
        return replace(rows, valid=valid)

    monkeypatch.setattr(LogitStore, "read", with_gaps)


def counted(batches: list[Batch]) -> tuple[int, int, int]:
    return sum(map(len, batches)), sum(b.skipped for b in batches), sum(b.labelled for b in batches)


@pytest.mark.usefixtures("gaps")
def test_views_without_an_answer_are_an_error_left_out_or_labelled(
    labelled: tuple[Recipe, LogitStore],
) -> None:
    recipe, store = labelled
    with pytest.raises(UserError, match=r"has no logits for 'train-\d+' \(slot \d+ of .*missing=skip"):
        list(stream(recipe, store).read(0, 1))
    assert counted(list(stream(recipe, store, missing="skip").read(0, 1))) == (400, 100, 0)
    batches = list(stream(recipe, store, missing="label", batch_size=100).read(0, 1))
    assert counted(batches) == (500, 0, 100)
    classes = np.concatenate([b.signal.class_id.numpy() for b in batches if b.signal])
    shares = np.concatenate([b.signal.probability.numpy() for b in batches if b.signal])
    labelled_rows = (shares[:, 2:] == 0).all(axis=1)
    assert labelled_rows.sum() == 100
    assert np.allclose(shares[labelled_rows].sum(axis=1), 1)
    assert set(np.unique(classes[labelled_rows])) == set(range(10))
    assert (shares[labelled_rows, 0] >= shares[labelled_rows, 1]).all()
    mixed = (shares[labelled_rows, 1] > 0).mean()
    # One pair in ten is of one class: then there is one label.
    assert mixed > 0.75 if recipe.label.augment.mixes else mixed == 0


@pytest.mark.parametrize("missing", ["skip", "label"])
def test_units_that_are_missing_are_left_out_or_labelled(
    small_recipe: Recipe, small_store: LogitStore, missing: str
) -> None:
    views = stream(small_recipe, small_store, missing=missing)
    (replayed,) = views.replayed
    views = replace(views, replayed=(replace(replayed, missing=frozenset({0})),))
    batches = list(run_stream(views, 2))
    if missing == "skip":
        assert counted(batches) == (250, 0, 0)
        assert (views.steps, views.left_out) == (5, 250)
    else:
        assert counted(batches) == (500, 0, 250)
        # The views are those that the store would have had.
        assert set(itertools.chain(*digests(batches))) == set(places(small_recipe, small_store))


def rename(shard: Path, key: str, name: str) -> None:
    """Give a sample another key, as a tool would that makes a shard anew."""
    with tarfile.open(shard) as tar:
        members = [(member, tar.extractfile(member)) for member in tar]
        with tarfile.open(shard.with_suffix(".new"), "w") as made:
            for member, content in members:
                member.name = member.name.replace(key, name)
                made.addfile(member, content)
    shard.with_suffix(".new").replace(shard)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_key_that_is_not_the_rows_names_shard_slot_and_both_keys(
    small_recipe: Recipe, small_store: LogitStore, small_data: Path, tmp_path: Path, workers: int
) -> None:
    shutil.copytree(small_data, tmp_path / "d")
    recipe = resolve_data(small_recipe, tmp_path / "d")
    views = stream(recipe, small_store)
    shard = min((tmp_path / "d" / "train").glob("*.tar"))
    known = views.index.keys(0)
    rename(shard, known[9], "train-xxxxx")
    with pytest.raises(
        UserError, match=f"{shard}: slot 9 holds the key 'train-xxxxx', in the index it is '{known[9]}'"
    ):
        list(run_stream(views, workers))
    # Indexed anew, it is no longer the store's.
    done = tinyvit("train", "example", "--store", small_store.location, "--run-dir", tmp_path / "r",
                   *small_arguments(tmp_path / "d"))  # fmt: skip
    assert done.returncode == 2
    line = " ".join(done.stderr.split())
    assert f"{shard.name}, slot 9: the key is '{known[9]}' in the store, 'train-xxxxx' in the data" in line
    assert "Traceback" not in line


def test_a_shard_that_vanishes_while_it_is_read_is_named(
    small_recipe: Recipe, small_store: LogitStore, small_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(small_data, tmp_path / "d")
    views = stream(resolve_data(small_recipe, tmp_path / "d"), small_store, batch_size=10)
    batches = views.read(0, 1)
    next(batches)
    min((tmp_path / "d" / "train").glob("*.tar")).unlink()
    with pytest.raises(UserError, match="was cut short or removed after it was indexed"):
        list(batches)


def test_an_image_is_read_and_decoded_once_for_both_views_of_a_pair(
    mixed_recipe: Recipe, mixed_store: LogitStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    real = IndexedShard.read

    def counting(shard: IndexedShard, slots: list[int]):  # type: ignore[no-untyped-def]
        read.extend(slots)
        return real(shard, slots)

    monkeypatch.setattr(IndexedShard, "read", counting)
    batches = list(stream(mixed_recipe, mixed_store, batch_size=100).read(0, 1))
    # A pair that falls apart between two batches is read for both.
    assert 500 <= len(read) <= 500 + 2 * len(batches)


def test_an_unsealed_store_is_trained_on_where_the_recipe_says_how(
    small_store: LogitStore, small_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(small_store.location, tmp_path / "s")
    LogitStore.open(tmp_path / "s").uncommit(Unit(0, 1))
    arguments = ["train", "example", "--store", tmp_path / "s", "--stage", "distill", *small_arguments(small_data)]
    refused = tinyvit(*arguments, "--run-dir", tmp_path / "a")
    assert refused.returncode == 2
    assert "is not sealed (3 of 4 units" in " ".join(refused.stderr.split())
    skipped = tinyvit(*arguments, "--run-dir", tmp_path / "b", "--json", "--set", "stages.distill.missing=skip")
    assert skipped.returncode == 0, skipped.stderr
    last = json.loads(skipped.stdout)["distill"]["last"]
    assert (last["images"], last["left_out"], last["labelled"]) == (250, 250, 0)
    assert "1 of the store's 4 units are missing; missing=skip" in " ".join(skipped.stderr.split())
    labelled = tinyvit(*arguments, "--run-dir", tmp_path / "c", "--set", "stages.distill.missing=label")
    assert labelled.returncode == 2
    assert "the data's class 'T-shirt/top' (label 0) is none of the teacher's 1000" in " ".join(labelled.stderr.split())


def test_fewer_stored_epochs_than_training_needs_are_used_in_turn(
    small_store: LogitStore, small_data: Path, tmp_path: Path
) -> None:
    done = tinyvit(
        "train", "example", "--store", small_store.location, "--run-dir", tmp_path / "r", "--stage", "distill",
        *small_arguments(small_data), "--set", "stages.distill.stored_epochs=1", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 epochs to train, 1 stored: they are used in turn" in " ".join(done.stderr.split())
    assert json.loads(done.stdout)["distill"]["epochs"] == 2


def parts(recipe: Recipe, store: LogitStore, several: int, **changes: Any) -> list[TrainingViews]:
    """The equal parts of a reading that gives the views of the first stored epochs."""
    replayed = tuple(Replayed(epoch, store.spec.run_seed, store.location) for epoch in range(several))
    first = stream(recipe, store, replayed=replayed, **changes)
    return [replace(first, part=part) for part in range(several)]


def read(views: list[TrainingViews], workers: int) -> list[list[list[int]]]:
    """By part and batch the views that are read."""
    return [digests(list(batches)) for batches in run_streams(views, workers)]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[bytes]:
    """How often each image was decoded."""
    count, real = Counter[bytes](), EncodedImage.__init__

    def counting(image: EncodedImage, content: bytes, decode: Decode) -> None:
        count[content] += 1
        real(image, content, decode)

    monkeypatch.setattr(EncodedImage, "__init__", counting)
    return count


def test_a_reading_gives_every_view_of_its_epochs_once(
    labelled: tuple[Recipe, LogitStore], decoded: Counter[bytes]
) -> None:
    recipe, store = labelled
    views = {digest: place for epoch in range(2) for digest, place in places(recipe, store, epoch).items()}
    rows = {(epoch, shard): store.read(epoch, shard) for epoch in range(2) for shard in range(2)}
    known = {int(seed): (*where, slot) for where, read in rows.items() for slot, seed in enumerate(read.seed)}
    decoded.clear()
    seen = list[tuple[int, int, int]]()
    for batches in run_streams(parts(recipe, store, 2, batch_size=50), 0):
        for batch in batches:
            found = [known[seed] for seed in batch.seeds.tolist()]
            # No batch has two views of an image.
            assert len({(shard, slot) for _, shard, slot in found}) == 50
            assert {digest in views for digest in digests([batch])[0]} == {True}
            assert batch.signal
            for i, (epoch, shard, slot) in enumerate(found):
                assert (batch.signal.class_id[i].numpy() == rows[epoch, shard].class_id[slot]).all()
                assert batch.signal.residual[i] == float(rows[epoch, shard].residual[slot])
            seen += found
    assert len(seen) == len(set(seen)) == 1000
    if not recipe.label.augment.mixes:
        assert decoded.total() == 500
    else:
        # All that may be partners are read together, in blocks of 64, which batches of 50 cut.
        assert 500 < decoded.total() < 900


def test_a_reading_is_the_same_whoever_reads_it(labelled: tuple[Recipe, LogitStore]) -> None:
    recipe, store = labelled
    wanted = read(parts(recipe, store, 2, batch_size=24, lanes=2), 0)
    assert len(wanted[0]) == len(wanted[1])
    for workers in (1, 2, 5):
        assert read(parts(recipe, store, 2, batch_size=24, lanes=2), workers) == wanted
    for world, grad_accum_steps in ((2, 1), (3, 2)):
        ranks = [
            read(
                parts(
                    recipe, store, 2, batch_size=24, lanes=2, rank=rank, world_size=world,
                    grad_accum_steps=grad_accum_steps,
                ),
                0,
            )
            for rank in range(world)
        ]  # fmt: skip
        for number, part in enumerate(wanted):
            steps = [[view for batch in rank[number] for view in batch] for rank in ranks]
            assert sorted(view for views in steps for view in views) == sorted(view for step in part for view in step)
            assert ranks[0][number][0] == part[0][: 24 // world // grad_accum_steps]
    # Any part can be begun anywhere, by processes that have read nothing of the others.
    first, second = parts(recipe, store, 2, batch_size=24, lanes=2)
    last = len(wanted[0]) - 1
    assert read([replace(second, kept=Kept(), start=5 * 24)], 2) == [wanted[1][5:]]
    assert read([replace(first, start=last * 24), second], 1) == [wanted[0][last:], wanted[1]]
