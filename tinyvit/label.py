"""Stage 1: ask the teacher about every view, once, and keep the best classes of its answer.

`open_for_labelling` plans (a new store, or the missing units of an old one), `label_units` does units and
commits them one by one, `finish` verifies and seals. Nothing here knows what runs it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from storage import LogitStore, StoreError, StoreSpec, Unit, UnitRows
from tinyvit.config import Recipe
from tinyvit.data.index import index_shards
from tinyvit.data.loader import run_stream
from tinyvit.data.place import Place
from tinyvit.data.unit_views import UnitPlan, UnitViews, ViewChunk
from tinyvit.errors import UserError, refuse_mismatch
from tinyvit.progress import Progress
from tinyvit.provenance import library_versions, now
from tinyvit.replay import probe_slots, view_seeds
from tinyvit.signal import TeacherSignal
from tinyvit.store_check import data_differences, faulty_units
from tinyvit.teachers import Teacher


@dataclass(frozen=True)
class UnitReport:
    """A unit that was computed and committed: how many views, how many without an answer, in what time."""

    unit: Unit
    views: int
    invalid: int
    seconds: float


def open_for_labelling(recipe: Recipe, path: str | Path, teacher: Teacher, progress: Progress) -> LogitStore:
    """The store at `path`, new or resumed. UserError when it belongs to other data, teacher or augmentation."""
    index = index_shards(recipe.data.train, progress)
    try:
        spec = store_spec(recipe, teacher)
        if not LogitStore.exists(path):
            return LogitStore.create(path, spec, index.table, teacher.classes, index.keys)
        store = LogitStore.open(path)
    except StoreError as fault:
        raise UserError(str(fault)) from None
    refuse_mismatch(
        path,
        [*store.spec.differences(spec), *data_differences(store, index)],
        "choose another store path, or the recipe and data it was made with",
    )
    return store


def label_store(
    recipe: Recipe, path: str | Path, teacher: Teacher, workers: int, progress: Progress
) -> tuple[LogitStore, list[UnitReport]]:
    """Make or resume the store at `path`: label what is missing, verify, seal; returns it and what was done now."""
    store = open_for_labelling(recipe, path, teacher, progress)
    missing = store.missing()
    reports = list(label_units(store, missing, recipe, teacher, workers, progress)) if missing else []
    if reports or not store.sealed:
        finish(store, progress)
    return store, reports


def store_spec(recipe: Recipe, teacher: Teacher) -> StoreSpec:
    """The specification of the store that this recipe and teacher make."""
    label = recipe.label
    return StoreSpec(
        data=Place(recipe.data.train).name,
        epochs=label.epochs,
        epochs_per_unit=label.epochs_per_unit,
        top_k=label.top_k,
        num_classes=teacher.num_classes,
        encoding=label.stored_as,
        selection=label.select,
        mass=label.mass,
        run_seed=label.seed,
        teacher=teacher.record(label.input_size or teacher.input_size),
        augment=label.augment.model_dump(mode="json"),
        libraries=library_versions(),
        created=now(),
    )


def label_units(
    store: LogitStore,
    units: Sequence[Unit],
    recipe: Recipe,
    teacher: Teacher,
    workers: int,
    progress: Progress,
) -> Iterator[UnitReport]:
    """Label units one after another; each is committed before it is reported.

    The next unit's images are decoded while the present one is computed. UserError for shards that are not
    the indexed ones, or a broken image where the recipe says `error`.
    """
    label = recipe.label
    plans = tuple(UnitPlan(unit, store.spec.epochs_of(unit)) for unit in units)
    stream = UnitViews(
        index=index_shards(recipe.data.train, progress),
        plans=plans,
        augment=label.augment,
        size=label.input_size or teacher.input_size,
        run_seed=label.seed,
        batch_size=label.batch_size,
        probes=store.spec.probes,
        skip_broken=recipe.data.broken == "skip",
    )
    planned = {plan.unit: plan for plan in plans}
    drafts: dict[Unit, _Draft] = {}
    began = time.monotonic()
    samples = store.table.samples
    with progress.task("label", sum(samples[p.unit.shard] * len(p.epochs) for p in plans), "views") as bar:
        for chunk in run_stream(stream, workers, pin_memory=teacher.device.type == "cuda"):
            if chunk.unit not in drafts:
                drafts[chunk.unit] = _Draft(planned[chunk.unit], store, label.seed)
            draft = drafts[chunk.unit]
            draft.add(chunk, teacher)
            bar.advance(chunk.digest.numel())
            if draft.complete:
                rows = drafts.pop(chunk.unit).rows
                store.write_unit(chunk.unit, rows)
                seconds, began = time.monotonic() - began, time.monotonic()
                yield UnitReport(chunk.unit, rows.valid.size, int((~rows.valid).sum()), seconds)


class _Draft:
    """A unit under way: its rows fill up chunk by chunk."""

    def __init__(self, plan: UnitPlan, store: LogitStore, run_seed: int) -> None:
        epochs, samples = len(plan.epochs), store.table.samples[plan.unit.shard]
        name = store.table.name[plan.unit.shard]
        self._spec = spec = store.spec
        self._filled = 0
        self._digest = np.zeros((epochs, samples), np.uint32)
        self._probes = probe_slots(samples, spec.probes)
        self._rows = UnitRows(
            class_id=np.zeros((epochs, samples, spec.top_k), np.int32),
            probability=np.zeros((epochs, samples, spec.top_k), np.float32),
            residual=np.zeros((epochs, samples), np.float32),
            seed=np.stack([view_seeds(run_seed, name, epoch, samples) for epoch in plan.epochs]),
            valid=np.zeros((epochs, samples), np.bool_),
            view_digest=np.zeros((epochs, spec.probes), np.uint32),
        )

    @property
    def complete(self) -> bool:
        return self._filled == self._rows.valid.size

    @property
    def rows(self) -> UnitRows:
        self._rows.view_digest[:] = self._digest[:, self._probes]
        return self._rows

    def add(self, chunk: ViewChunk, teacher: Teacher) -> None:
        """Ask the teacher about a chunk [e, n] and keep the answer."""
        shape, here = tuple(chunk.digest.shape), np.ix_(chunk.epochs.numpy(), chunk.slots.numpy())
        logits = teacher.answer(chunk.views.flatten(0, 1))
        finite = torch.isfinite(logits).all(dim=1)
        spec, seeds = self._spec, torch.from_numpy(self._rows.seed[here].astype(np.int64)).flatten()
        logits = torch.where(finite[:, None], logits, 0.0)
        signal = TeacherSignal.selected(logits, spec.selection, spec.top_k, spec.mass, seeds)
        self._rows.class_id[here] = signal.class_id.view(*shape, -1).cpu().numpy()
        self._rows.probability[here] = signal.probability.view(*shape, -1).cpu().numpy()
        self._rows.residual[here] = signal.residual.view(shape).cpu().numpy()
        self._rows.valid[here] = finite.view(shape).cpu().numpy() & chunk.decoded.numpy()
        self._digest[here] = chunk.digest.numpy()
        self._filled += chunk.digest.numel()


def finish(store: LogitStore, progress: Progress) -> None:
    """Verify what was labelled and seal the store. UserError with the first fault when it is not sound."""
    units = faulty_units(store, progress)
    faults = [*store.faults(), *(f"{store.place(unit)}: {found[0]}" for unit, found in units.items())]
    if faults:
        raise UserError(
            f"{store.location} is not sound, {len(faults)} faults, the first: {faults[0]}; "
            f"run `tinyvit store verify --repair`, then label again"
        )
    store.seal()
