"""Opening a store to train on it: refuse what does not match before a single step is spent.

Checked are the seal, the recipe's teacher, classes and augmentation, the shards, and by remaking a few views
that the libraries of today still make the pixels of then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from logitstore import LogitStore, StoreError, Unit, digest_of
from tinyvit.classes import load_class_list
from tinyvit.config import Augment, Decode, Recipe
from tinyvit.data.index import ShardIndex
from tinyvit.data.join import IndexedShard
from tinyvit.data.loader import run_stream
from tinyvit.data.render_views import render_views
from tinyvit.errors import UserError, refuse_mismatch
from tinyvit.labelling.verify_data import data_differences
from tinyvit.runtime.provenance import version_changes
from tinyvit.views import probe_slots, view_digest
from tinyvit.views.images import BrokenImage, record_of

# How many shards have their probe views remade: enough to meet every augmentation, few enough for seconds.
PROBED_SHARDS = 4


def open_for_training(recipe: Recipe, path: str | Path, index: ShardIndex, workers: int) -> LogitStore:
    """The store at `path`, found to fit the recipe and its data. UserError when it does not.

    It must be sealed, unless every stage that learns from it says what becomes of views without logits.
    """
    try:
        store = LogitStore.open(path)
        learners = [stage for stage in recipe.stages.values() if stage.target == "teacher"]
        if not store.sealed and (not learners or any(stage.missing == "error" for stage in learners)):
            missing, units = len(store.missing()), len(store.units())
            raise UserError(
                f"the store {path} is not sealed ({units - missing} of {units} units are there); "
                f"run teacher-logits again to complete it"
            )
        if not store.has_valid_rows:
            raise UserError(
                f"the store {path} has not a single valid row: nothing was labelled yet, every image was broken, or "
                f"nothing that the teacher said was finite; run `tinyvit store verify` on it, or label again"
            )
        differences = [*_recipe_differences(recipe, store), *data_differences(store, index)]
        refuse_mismatch(path, differences, "give the store that was made for it")
        check_replay(store, recipe.label.augment, recipe.data.decode, index, workers)
    except StoreError as fault:
        raise UserError(str(fault)) from fault
    return store


def _recipe_differences(recipe: Recipe, store: LogitStore) -> list[str]:
    spec, label = store.spec, recipe.label
    found = []
    if spec.teacher["name"] != label.teacher:
        found.append(f"teacher is {spec.teacher['name']!r} in the store, {label.teacher!r} in the recipe")
    if label.classes is not None:
        names = load_class_list(label.classes)
        if digest_of(names) != spec.teacher["class_list_digest"]:
            found.append(_class_difference(store.class_names or [], names, label.classes))
    asked = label.augment.model_dump(mode="json")
    if digest_of(asked) != spec.augment_digest:
        found += [
            f"augment.{key} is {spec.augment.get(key)!r} in the store, {asked.get(key)!r} in the recipe"
            for key in sorted({*asked, *spec.augment})
            if asked.get(key) != spec.augment.get(key)
        ]
    for name, stage in recipe.stages.items():
        if stage.target == "teacher" and (stage.top_k or 1) > spec.top_k:
            found.append(f"stage {name} wants top_k {stage.top_k}, the store holds {spec.top_k}")
        if stage.target == "teacher" and (stage.stored_epochs or 1) > spec.epochs:
            found.append(f"stage {name} wants {stage.stored_epochs} stored epochs, the store has {spec.epochs}")
        if stage.target == "teacher" and stage.top_k and spec.selection == "sampled":
            found.append(f"stage {name} wants top_k {stage.top_k}, which would bias the sampled rows of the store")
    return found


def _class_difference(stored: Sequence[str], given: Sequence[str], file: Path) -> str:
    """The first class that two lists call differently."""
    pairs = enumerate(zip_longest(stored, given))
    number, (own, other) = next((n, pair) for n, pair in pairs if pair[0] != pair[1])
    return f"class {number} is called {own!r} in the store, {other!r} in {file}"


AS_IT_DOES = "read images as it does (data.orientation, data.background), "
OTHERWISE = "label again, or use the release that made it"


def reading_differences(store: LogitStore, decode: Decode) -> list[str]:
    """Where the images of a store were read otherwise than `decode` and the rules of today say."""
    return store.spec.differences(replace(store.spec, decode=record_of(decode)))


def check_replay(store: LogitStore, augment: Augment, decode: Decode, index: ShardIndex, workers: int) -> None:
    """Remake probe views of a few shards and epochs with this augmentation, of images that are read like this.

    UserError naming the versions when a pixel differs, and for a store whose images were read by other rules.
    """
    remedy = (AS_IT_DOES if store.spec.decode else "") + OTHERWISE
    refuse_mismatch(store.location, reading_differences(store, decode), remedy)
    absent = frozenset(store.missing()) if not store.sealed else frozenset[Unit]()
    probes = _Probes(index, store.location, augment, decode, absent)
    # In a process of its own: Prefect's threads draw from the generators that a view is made with.
    for drifted in run_stream(probes, min(workers, 1)):
        raise UserError(f"the views of {store.location} cannot be remade: {drifted}; {_versions(store)}")


@dataclass(frozen=True)
class _Probes:
    """What differs among the probe views of a few shards and epochs, a line each."""

    index: ShardIndex
    location: str
    augment: Augment
    decode: Decode
    absent: frozenset[Unit]

    def read(self, worker: int, workers: int) -> Iterator[str]:
        """The lines of one worker."""
        store = LogitStore.open(self.location)
        count = min(PROBED_SHARDS, len(self.index))
        for i in range(worker, count, workers):
            shard = self.index.shard(i * len(self.index) // count)
            epoch = i * store.spec.epochs // count
            if Unit(epoch // store.spec.epochs_per_unit, shard.number) not in self.absent:
                yield from self._drifted(store, shard, epoch)

    def _drifted(self, store: LogitStore, shard: IndexedShard, epoch: int) -> Iterator[str]:
        rows = store.read(epoch, shard.number)
        probes = dict(zip(probe_slots(shard.samples, store.spec.probes), rows.view_digest.tolist(), strict=True))
        slots = [slot for slot in probes if rows.valid[slot]]
        size = int(store.spec.teacher["input_size"])
        made = render_views(shard, slots, rows.seed, self.augment, self.decode, size)
        for slot, pixels in made.pixels.items():
            key = made.samples[slot].key
            if isinstance(pixels, BrokenImage):
                yield f"{key!r} of {shard.name} does not decode any more ({pixels})"
            elif view_digest(pixels) != probes[slot]:
                yield (
                    f"the view of {key!r} in {shard.name}, epoch {epoch}, has the checksum {view_digest(pixels):08x}, "
                    f"in the store it has {probes[slot]:08x}"
                )


def _versions(store: LogitStore) -> str:
    if differ := version_changes(store.spec.libraries):
        return f"{', '.join(differ)}: install the versions of then, or label again"
    return "the library versions are the same, so the augmentation code or the images changed: label again"
