"""Whether a store is of this teacher and these shards, and whether its views are still what they were."""

from __future__ import annotations

from collections.abc import Iterator

from logitstore import LogitStore, StoreError
from tinyvit.config import Decode
from tinyvit.data.index import ShardIndex
from tinyvit.doctor.finding import Finding
from tinyvit.errors import UserError
from tinyvit.labelling.describe import stored_augment, stored_decode
from tinyvit.labelling.verify_data import data_differences
from tinyvit.labelling.verify_logits import replay_faults
from tinyvit.labelling.verify_replay import check_replay, reading_differences
from tinyvit.models.teachers import Teacher
from tinyvit.runtime.progress import Progress
from tinyvit.runtime.provenance import library_versions, version_changes

# Views that are made again and shown to the teacher.
ASKED_AGAIN = 16
MENDS = "tinyvit store verify says more, --repair mends damaged units"
OTHER = "give the teacher that labelled it, or label into another store"


def open_store(path: str | None) -> tuple[LogitStore | None, Finding | None]:
    """The store at `path`, and why there is none."""
    if path is None:
        return None, Finding("store", "skipped", "no store was given", "give --store once there is one")
    try:
        if not LogitStore.exists(path):
            return None, Finding("store", "skipped", f"there is no store at {path} yet", "tinyvit label makes it")
        return LogitStore.open(path), None
    except StoreError as fault:
        return None, Finding.of_fault("store", UserError(str(fault)))


def check_store(
    store: LogitStore, teacher: Teacher | None, index: ShardIndex | None, decode: Decode | None = None
) -> Finding:
    """Its record against the teacher, the shards and the way of reading images that were given."""
    missing, units = len(store.missing()), len(store.units())
    faults = store.faults()
    if faults:
        return Finding("store", "failed", "; ".join(faults[:3]), MENDS)
    if teacher and (differences := list(_differences(store, teacher))):
        return Finding("store", "failed", f"it was labelled by another teacher: {'; '.join(differences)}", OTHER)
    if index and (lines := data_differences(store, index)):
        return Finding("store", "failed", f"it is of other shards: {lines[0]}", "give the shards that it was made from")
    if decode and (lines := reading_differences(store, decode)):
        remedy = "set data.orientation and data.background as they are in the store, or label again"
        return Finding("store", "failed", f"its images were read otherwise: {'; '.join(lines)}", remedy)
    told = f"{units - missing:,} of {units:,} units"
    compared = " and ".join(["this teacher"] * bool(teacher) + ["these shards"] * bool(index))
    told += f", of {compared}" if compared else "; neither teacher nor shards were given to compare it with"
    if missing:
        return Finding("store", "hint", told, "tinyvit label completes it")
    return Finding("store", "ok", told)


def _differences(store: LogitStore, teacher: Teacher) -> Iterator[str]:
    then = store.spec.teacher
    now = teacher.record(int(then["input_size"]))
    for field, words in (
        ("name", "its name is {then}, not {now}"),
        ("weights_sha256", "its weights have the sha256 {then:.12}..., not {now:.12}..."),
        ("class_list_digest", "its class names are others, or in another order"),
        ("mean", "its mean is {then}, not {now}"),
        ("std", "its std is {then}, not {now}"),
    ):
        if then[field] != now[field]:
            yield words.format(then=then[field], now=now[field])


def check_views(
    store: LogitStore, teacher: Teacher | None, index: ShardIndex, seed: int, progress: Progress
) -> Finding:
    """Views made again from their seeds: the same pixels, and from the same teacher the same logits."""
    try:
        check_replay(store, stored_augment(store), stored_decode(store), index, workers=1)
        if teacher is None:
            return Finding("replay", "ok", "views made again have the stored checksums")
        absent = set(store.missing())
        there = [unit for unit in store.units() if unit not in absent]
        asked, faults = replay_faults(store, index.place.location, teacher, there, ASKED_AGAIN, seed, progress)
    except UserError as fault:
        return Finding.of_fault("replay", fault)
    if faults:
        told = f"{len(faults)} of {asked} views' logits are not: {faults[0]}" if asked else faults[0]
        told = f"views are what they were, but {told}"
        return Finding("replay", "failed", told, OTHER)
    return Finding("replay", "ok", f"views made again have the stored checksums, and {asked} of them the stored logits")


def check_libraries(store: LogitStore) -> Finding:
    """Versions of what makes pixels and numbers, then and now."""
    if changed := version_changes(store.spec.libraries):
        remedy = "no matter as long as the replay is well; if it is not, install the versions of then"
        return Finding("libraries", "hint", ", ".join(changed), remedy)
    here = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    return Finding("libraries", "ok", f"{here}, as then")
