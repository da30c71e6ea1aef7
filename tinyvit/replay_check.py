"""Opening a store to train on it: refuse what does not match before a single step is spent.

Checked are the seal, the recipe's teacher, classes and augmentation, the shards, and by remaking a few views
that the libraries of today still make the pixels of then.
"""

from __future__ import annotations

from pathlib import Path

from storage import LogitStore, StoreError, digest_of
from tinyvit.config import Recipe
from tinyvit.data.images import BrokenImage, decode
from tinyvit.data.index import index_folder
from tinyvit.data.join import IndexedShard, checked_samples, indexed_shards
from tinyvit.errors import UserError, refuse_mismatch
from tinyvit.progress import Progress
from tinyvit.provenance import library_versions
from tinyvit.replay import probe_slots, view, view_digest

# How many shards have their probe views remade: enough to meet every augmentation, few enough for seconds.
PROBED_SHARDS = 4


def open_for_training(recipe: Recipe, path: str | Path, progress: Progress) -> LogitStore:
    """The sealed store at `path`, found to fit the recipe and its data. UserError when it does not."""
    try:
        store = LogitStore.open(path)
        if not store.sealed:
            missing, units = len(store.missing()), len(store.units())
            raise UserError(
                f"the store {path} is not sealed ({units - missing} of {units} units are there); "
                f"run teacher-logits again to complete it"
            )
        differences = [
            *_recipe_differences(recipe, store),
            *store.table.differences(index_folder(recipe.data.train, progress)),
        ]
    except StoreError as fault:
        raise UserError(str(fault)) from None
    refuse_mismatch(path, differences, "give the store that was made for it")
    check_replay(store, recipe)
    return store


def _recipe_differences(recipe: Recipe, store: LogitStore) -> list[str]:
    spec, label = store.spec, recipe.label
    found = []
    if spec.teacher["name"] != label.teacher:
        found.append(f"teacher is {spec.teacher['name']!r} in the store, {label.teacher!r} in the recipe")
    if label.classes is not None:
        try:
            names = label.classes.read_text().splitlines()
        except OSError as fault:
            raise UserError(f"the class list {label.classes} cannot be read: {fault.strerror}") from None
        if digest_of(names) != spec.teacher["class_list_digest"]:
            found.append(f"the class list is not that of {label.classes}")
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
        if stage.target == "teacher" and stage.top_k and spec.selection == "sampled":
            found.append(f"stage {name} wants top_k {stage.top_k}, which would bias the sampled rows of the store")
    return found


def check_replay(store: LogitStore, recipe: Recipe) -> None:
    """Remake probe views of a few shards and epochs. UserError naming the versions when a pixel differs."""
    shards = indexed_shards(recipe.data.train, store.table)
    count = min(PROBED_SHARDS, len(shards))
    for i in range(count):
        shard = shards[i * len(shards) // count]
        epoch = i * store.spec.epochs // count
        if drifted := _drifted_slot(store, recipe, shard, epoch):
            raise UserError(f"the views of {store.location} cannot be remade: {drifted}; {_versions(store)}")


def _drifted_slot(store: LogitStore, recipe: Recipe, shard: IndexedShard, epoch: int) -> str:
    """What differs among the probe views of one shard and epoch; empty when nothing does."""
    rows = store.read(epoch, shard.number)
    slots = probe_slots(shard.samples, store.spec.probes)
    size = int(store.spec.teacher["input_size"])
    for sample in checked_samples(shard):
        if sample.slot not in slots or not rows.valid[sample.slot]:
            continue
        try:
            pixels = view(decode(sample.image), int(rows.seed[sample.slot]), recipe.label.augment, size)
        except BrokenImage as fault:
            return f"{sample.key!r} of {shard.path.name} does not decode any more ({fault})"
        if view_digest(pixels) != int(rows.view_digest[slots.index(sample.slot)]):
            return f"the view of {sample.key!r} in {shard.path.name}, epoch {epoch}, has other pixels"
    return ""


def _versions(store: LogitStore) -> str:
    here = library_versions()
    differ = [
        f"{name} was {then}, is {here.get(name, 'absent')}"
        for name, then in store.spec.libraries.items()
        if here.get(name) != then
    ]
    if differ:
        return f"{', '.join(differ)}: install the versions of then, or label again"
    return "the library versions are the same, so the augmentation code or the images changed: label again"
