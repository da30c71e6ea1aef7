"""What must not change unless it is meant to: bytes on disk, pixels, order, losses, digests, the command line.

Recorded with the versions in constraints.txt. What is meant to change is written anew by `pytest tests/golden
--record`, and the difference goes into the commit that means it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import EXAMPLE, SMALL, small_arguments, tinyvit

from logitstore import LogitStore, StoreSpec, Unit, UnitRows, digest_of
from logitstore.features import Features, FeatureSpec, FeatureStore
from logitstore.testing import SAMPLES, SPEC, TABLE, random_rows
from tinyvit.cli.main import app
from tinyvit.config import Augment, Decode, load_recipe
from tinyvit.config.recipe import recipe_names
from tinyvit.data.index import index_shards
from tinyvit.data.location import resolve_data
from tinyvit.data.order import EpochOrder, EpochSequence, pairs
from tinyvit.runtime.progress import LogProgress
from tinyvit.tasks.run import TASKS, open_run
from tinyvit.tasks.signals import StoredSignals
from tinyvit.training.metric_logger import read_lines
from tinyvit.training.train import train
from tinyvit.views import mix_of, partners, view_digest, view_seeds, views
from tinyvit.views.images import EncodedImage

Recorded = Callable[[str, str], str]

STORES = {
    "compact": SPEC,
    "fine": replace(SPEC, encoding="fine"),
    "exact": replace(SPEC, encoding="exact"),
    "mass": replace(SPEC, selection="mass", mass=0.9),
    "sampled": replace(SPEC, selection="sampled", encoding="counts"),
}
POLICIES = {
    "paper": Augment(),
    "jitter": Augment(auto_augment=None, color_jitter=0.4),
    "three augment": Augment(auto_augment="3a", erase_mode="rand", erase_prob=1.0),
    "original": Augment(auto_augment="original-mstd0.5", interpolation="random"),
    "augmix": Augment(auto_augment="augmix-m5-w4-d2", erase_mode="const", erase_prob=1.0, erase_count=3),
    "soft": Augment(auto_augment=None, grayscale_prob=0.5, gaussian_blur_prob=0.5, vflip=0.5),
    "keeps ratio": Augment(crop_mode="rkrc", scale=(0.8, 1.0), ratio=(0.9, 1.1)),
    "mixup and cutmix": Augment(mixup_alpha=0.8, cutmix_alpha=1.0),
    "cutmix of some": Augment(cutmix_alpha=1.0, cutmix_minmax=(0.2, 0.8), mix_prob=0.5),
}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def objects(folder: Path) -> dict[str, str]:
    """The digest of every file of a store."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): sha256(file.read_bytes()) for file in files}


def rows_of(unit: Unit, spec: StoreSpec) -> UnitRows:
    """Random rows, of which a specification keeps what it says."""
    rows = random_rows(unit, spec)
    p = rows.probability
    if spec.selection == "mass":
        before = np.cumsum(p, axis=-1) - p
        kept = np.where(before < spec.mass, p, 0)
        return replace(rows, probability=kept, residual=rows.residual + (p - kept).sum(-1))
    if spec.selection == "sampled":
        counts = np.array([2, 1, 1, 0])
        return replace(rows, probability=np.broadcast_to(counts / 4, p.shape), residual=np.zeros_like(rows.residual))
    return rows


def as_lines(found: dict[str, str]) -> str:
    return "".join(f"{name}: {value}\n" for name, value in found.items())


def shape_of(document: Any, path: str = "") -> Iterator[str]:
    """The keys of a document, whatever their values."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield from shape_of(value, f"{path}.{key}" if path else key)
    else:
        yield path


def test_every_byte_of_a_store(tmp_path: Path, recorded: Recorded) -> None:
    for name, spec in STORES.items():
        made = LogitStore.create(tmp_path / name, replace(spec, libraries={}), TABLE, [f"class {i}" for i in range(9)])
        for unit in made.units():
            made.write_unit(unit, rows_of(unit, spec))
    features = FeatureSpec(
        data="toy", epochs=1, epochs_per_unit=1, channels=6, network={"name": "toy"}, preparation={"size": 8},
        libraries={}, created="",
    )  # fmt: skip
    store = FeatureStore.create(tmp_path / "features", features, TABLE)
    for shard, samples in enumerate(SAMPLES):
        rng = np.random.default_rng(shard)
        store.write_shard(
            shard,
            Features(
                rng.normal(size=(samples, 6)).astype(np.float32),
                np.arange(samples, dtype=np.int32),
                rng.integers(2**32, size=features.probes, dtype=np.uint32),
            ),
        )
    # Not sealed: the seal has a time.
    found = as_lines(objects(tmp_path))
    assert found == recorded("store.txt", found)


def test_every_pixel_of_a_view(recorded: Recorded) -> None:
    shard = index_shards(EXAMPLE / "train", LogProgress()).shard(0)
    images = {sample.slot: EncodedImage(sample.image, Decode()) for sample in shard.read(range(12))}
    lines = dict[str, str]()
    for name, augment in POLICIES.items():
        seeds = view_seeds(0, "a.tar", 0, len(images))
        made = views(images, range(12), seeds, partners(seeds, augment), augment, 48)
        lines[name] = " ".join(f"{view_digest(view):08x}" for view in made.values() if isinstance(view, np.ndarray))
    assert all(line.count(" ") == 11 for line in lines.values())
    # The same images, each policy another view of them.
    assert len(set(lines.values())) == len(lines)
    found = as_lines(lines)
    assert found == recorded("views.txt", found)


def test_the_order_of_an_epoch_and_its_partners(recorded: Recorded) -> None:
    lines = {}
    mixed = POLICIES["mixup and cutmix"]
    for epoch in range(3):
        order = EpochOrder((700, 0, 20_000, 15_000, 513), seed=5, epoch=epoch)

        def partners_of(shard: int, epoch: int = epoch, order: EpochOrder = order) -> Any:
            return pairs(partners(view_seeds(3, f"{shard}.tar", epoch, order.samples[shard]), mixed))

        sequence = EpochSequence(order, partners_of).take(0, order.total)
        seeds = view_seeds(3, "0.tar", epoch, 700)
        mixes = [mix_of(int(one), int(two), mixed) for one, two in zip(seeds[::2], seeds[1::2], strict=True)]
        lines[f"epoch {epoch}"] = sha256(sequence.astype(np.int64).tobytes())
        lines[f"seeds {epoch}"] = sha256(seeds.astype(np.int64).tobytes())
        lines[f"mixes {epoch}"] = sha256(repr([(mix.share, mix.box) for mix in mixes if mix]).encode())
    found = as_lines(lines)
    assert found == recorded("order.txt", found)


def test_digests_of_recipes_and_stages(small_data: Path, tmp_path: Path, recorded: Recorded) -> None:
    lines = {name: load_recipe(name).digest() for name in recipe_names()}
    recipe = resolve_data(load_recipe("example", SMALL), small_data)
    run = open_run(recipe, tmp_path, list(recipe.stages), 0, LogProgress())
    # What a store's attributes say has a test of its own.
    spec = replace(SPEC, libraries={}, num_classes=1000)
    store = LogitStore.create(tmp_path / "s", spec, TABLE)
    for name in recipe.stages:
        lines[f"stage {name}"] = digest_of(
            TASKS[recipe.stages[name].target].identity(replace(run, signals=StoredSignals(store)), name, "earlier")
        )
    found = as_lines(lines)
    assert found == recorded("digests.txt", found)


def test_losses_of_both_stages(small_data: Path, small_store: LogitStore, tmp_path: Path, recorded: Recorded) -> None:
    recipe = resolve_data(load_recipe("example", (*SMALL, "engine.log_steps=1")), small_data)
    run = replace(open_run(recipe, tmp_path, list(recipe.stages), 0, LogProgress()), signals=StoredSignals(small_store))
    results = list(train(run, list(recipe.stages)))
    losses = {name: [line["loss"] for line in read_lines(tmp_path / name / "metrics.jsonl")] for name in recipe.stages}
    # Which instructions a machine has changes the last digits.
    before = json.loads(recorded("losses.json", json.dumps(losses, indent=1) + "\n"))
    assert set(losses) == set(before)
    for name, values in losses.items():
        assert len(values) >= 10
        assert values == pytest.approx(before[name], rel=3e-4)
    shapes = "".join(f"{line}\n" for result in results for line in shape_of(result, result["stage"]))
    assert shapes == recorded("train.txt", shapes)


@pytest.mark.parametrize("command", ["store info", "plan", "label"])
def test_keys_of_documents(command: str, small_store: LogitStore, small_data: Path, recorded: Recorded) -> None:
    location = small_store.location
    arguments = {
        "store info": ["store", "info", location],
        "plan": ["plan", "example", *small_arguments(small_data)],
        "label": ["label", "example", "--store", location, *small_arguments(small_data)],
    }
    done = tinyvit(*arguments[command], "--json")
    assert done.returncode == 0, done.stderr
    found = "".join(f"{line}\n" for line in shape_of(json.loads(done.stdout)))
    assert found == recorded(f"{command.replace(' ', '-')}.txt", found)


def commands(command: Any, name: str) -> Iterator[str]:
    """A line for each parameter of a command and of those below it."""
    for parameter in command.params:
        if parameter.name == "help":
            continue
        flags = " ".join((*parameter.opts, *parameter.secondary_opts))
        more = "required" if parameter.required else f"default {parameter.default!r}"
        many = ", repeatable" if getattr(parameter, "multiple", False) or parameter.nargs == -1 else ""
        yield f"{name} {flags}: {more}{many}\n"
    for below in getattr(command, "files", {}):
        yield from commands(command.load(below), f"{name} {below}")


def test_the_command_line(recorded: Recorded) -> None:
    found = "".join(sorted(commands(app, "tinyvit")))
    assert found == recorded("command_line.txt", found)
