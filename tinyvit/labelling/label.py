"""Stage 1: ask the teacher about every view, once, and keep the best classes of its logits.

`open_for_labelling` plans (a new store, or the missing units of an old one), a Labeller does what no other run does and
commits unit by unit, `finish` verifies and seals. Nothing here knows what runs it, or how many others run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Self

import numpy as np
import torch

from logitstore import Claims, LogitStore, StoreError, StoreSpec, Unit, UnitRows
from tinyvit.config import Recipe
from tinyvit.data.index import ShardIndex, index_shards
from tinyvit.data.loader import run_jobs
from tinyvit.data.location import ShardLocation, cache_for
from tinyvit.data.unit_views import UnitPart, UnitViews, ViewChunk
from tinyvit.errors import Stopped, UserError, refuse_mismatch
from tinyvit.labelling.verify_data import data_differences, faulty_units
from tinyvit.models.teachers import Teacher
from tinyvit.runtime.progress import Progress
from tinyvit.runtime.provenance import library_versions, now
from tinyvit.targets.signal import TeacherSignal, valid_logits
from tinyvit.views import probe_slots, view_seeds
from tinyvit.views.images import record_of

log = logging.getLogger("tinyvit")

# Seconds between looks at what other runs have done.
LOOK_AGAIN = 2.0


@dataclass(frozen=True)
class UnitReport:
    """A unit that was computed and committed: how many views, how many without logits, in what time."""

    unit: Unit
    views: int
    invalid: int
    seconds: float


def open_for_labelling(recipe: Recipe, path: str | Path, teacher: Teacher, index: ShardIndex) -> LogitStore:
    """The store at `path`, new or resumed. UserError when it belongs to other data, teacher or augmentation."""
    teacher.try_size(recipe.label.input_size)
    try:
        spec = store_spec(recipe, teacher)
        if not LogitStore.exists(path):
            try:
                return LogitStore.create(path, spec, index.table, teacher.classes, index.keys)
            except StoreError:
                # Another run may have been faster.
                if not LogitStore.exists(path):
                    raise
        store = LogitStore.open(path)
    except StoreError as fault:
        raise UserError(str(fault)) from fault
    refuse_mismatch(
        path,
        [*store.spec.differences(spec), *data_differences(store, index)],
        "choose another store path, or the recipe and data it was made with",
    )
    return store


@dataclass(frozen=True)
class Slice:
    """Every `of`-th unit of a store, from the `number`-th on (1 to `of`)."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Slice:
        """From `3/8`. UserError for anything else."""
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise UserError(f"--slice {text}: give two numbers such as 3/8, the third of eight slices")
        return cls(int(number), int(of))

    def units(self, store: LogitStore) -> list[Unit]:
        """The units of this slice."""
        return store.units()[self.number - 1 :: self.of]


def label_store(
    recipe: Recipe, path: str | Path, teacher: Teacher, workers: int, progress: Progress, part: Slice | None = None
) -> tuple[LogitStore, list[UnitReport]]:
    """Make or resume the store at `path`: label what is missing, verify, seal; returns it and what was done now.

    Several may do so at once, on one machine or many: each unit is labelled by one of them, and all end when the store
    is sealed. With a slice only its units are labelled, and whoever finds nothing missing afterwards seals.
    """
    index = index_shards(recipe.data.train, progress)
    store = open_for_labelling(recipe, path, teacher, index)
    if store.sealed and not store.missing():
        return store, []
    with Claims(store) as claims:
        wanted = (part or Slice()).units(store)
        reports = list(Labeller(store, recipe, teacher, index, workers, progress, claims).label_missing(wanted))
        if not store.missing():
            finish(store, progress, claims)
    return LogitStore.open(path), reports


def store_spec(recipe: Recipe, teacher: Teacher) -> StoreSpec:
    """The specification of the store that this recipe and teacher make."""
    label = recipe.label
    return StoreSpec(
        data=ShardLocation(recipe.data.train).name,
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
        decode=record_of(recipe.data.decode),
        libraries=library_versions(),
        created=now(),
    )


def asked_views(recipe: Recipe, store: LogitStore, teacher: Teacher, index: ShardIndex) -> UnitViews:
    """The views that the teacher is asked about, to be read unit by unit."""
    label = recipe.label
    return UnitViews(
        index=index,
        augment=label.augment,
        decode=recipe.data.decode,
        size=label.input_size or teacher.input_size,
        run_seed=label.seed,
        batch_size=label.batch_size,
        probes=store.spec.probes,
        skip_broken=recipe.data.broken == "skip",
    )


@dataclass(frozen=True)
class Labeller:
    """One run that labels a store: whose logits, which units no other run has (`claims`), `workers` data processes.

    `stop` ends it with Stopped within a batch; what was committed stays.
    """

    store: LogitStore
    recipe: Recipe
    teacher: Teacher
    index: ShardIndex
    workers: int
    progress: Progress
    claims: Claims
    stop: Event = field(default_factory=Event)

    def label_missing(self, units: Sequence[Unit]) -> Iterator[UnitReport]:
        """Label what is missing of these units and no other run has claimed, until nothing is; see `label`.

        Waits for what others are at, and does it when they die.
        """
        wanted, waiting = set(units), False
        while missing := [unit for unit in self.store.missing() if unit in wanted]:
            done = 0
            for report in self.label(missing):
                yield report
                done += 1
            if not done:
                if not waiting:
                    log.info("label: %d units are with other runs; waiting for them", len(missing))
                waiting = True
                self.stop.wait(LOOK_AGAIN)
                self._end_if_told()

    def label(self, units: Sequence[Unit]) -> Iterator[UnitReport]:
        """Label those of these units that no other run has claimed; each is committed before it is reported.

        The next unit's images are decoded while the present one is computed. UserError for shards that are not
        the indexed ones, a broken image where the recipe says `error`, or a unit without a single valid row.
        """
        store, teacher, recipe = self.store, self.teacher, self.recipe
        label, free = recipe.label, self.claims.free(units)
        first = next(free, None)
        if first is None:
            return
        index = self.index.through(cache_for(recipe.data.train, recipe.data))
        stream = asked_views(recipe, store, teacher, index)

        def parts() -> Iterator[UnitPart]:
            with _Next(index) as following:
                for unit in following.units(chain([first], free)):
                    yield from stream.parts(unit, store.spec.epochs_of(unit))

        draft: _UnitBuilder | None = None
        began = time.monotonic()
        chunks = run_jobs(stream.chunks, parts(), self.workers, teacher.device.type == "cuda", self.stop)
        with self.progress.task("label", sum(store.views(unit) for unit in units), "views") as bar:
            for chunk in chain.from_iterable(chunks):
                self._end_if_told()
                draft = draft or _UnitBuilder(chunk.unit, store, label.seed)
                draft.add(chunk, teacher)
                bar.advance(chunk.digest.numel())
                if draft.complete:
                    draft.refuse_nothing(teacher)
                    rows, draft = draft.rows, None
                    store.write_unit(chunk.unit, rows)
                    self.claims.drop(chunk.unit)
                    seconds, began = time.monotonic() - began, time.monotonic()
                    yield UnitReport(chunk.unit, rows.valid.size, int((~rows.valid).sum()), seconds)

    def _end_if_told(self) -> None:
        if self.stop.is_set():
            raise Stopped("labelling was stopped; what was committed stays, and the same command goes on from there")


class _Next:
    """Has the shard of the next unit fetched while one is labelled, where shards are read through a cache."""

    def __init__(self, index: ShardIndex) -> None:
        self._index, self._thread = index, ThreadPoolExecutor(1, "ahead")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def units(self, units: Iterator[Unit]) -> Iterator[Unit]:
        """The units, each asked for while the one before it is labelled if its shard is to be fetched."""
        if self._index.cache is None:
            yield from units
            return
        now = next(units, None)
        while now:
            then = next(units, None)
            present = self._index.cached(now.shard)
            if then and present and (shard := self._index.cached(then.shard)):
                # What goes wrong is met, and told, by who reads it.
                self._thread.submit(shard.prepare, frozenset({present.key}))
            yield now
            now = then


class _UnitBuilder:
    """A unit under way: its rows fill up chunk by chunk."""

    def __init__(self, unit: Unit, store: LogitStore, run_seed: int) -> None:
        planned, samples = store.spec.epochs_of(unit), store.table.samples[unit.shard]
        epochs, name = len(planned), store.table.name[unit.shard]
        self._spec = spec = store.spec
        self._place = store.describe_unit(unit)
        self._filled = self._decoded = 0
        self._digest = np.zeros((epochs, samples), np.uint32)
        self._probes = probe_slots(samples, spec.probes)
        self._rows = UnitRows(
            class_id=np.zeros((epochs, samples, spec.top_k), np.int32),
            probability=np.zeros((epochs, samples, spec.top_k), np.float32),
            residual=np.zeros((epochs, samples), np.float32),
            seed=np.stack([view_seeds(run_seed, name, epoch, samples) for epoch in planned]),
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
        """Ask the teacher about a chunk [e, n] and keep its logits."""
        shape, here = tuple(chunk.digest.shape), np.ix_(chunk.epochs.numpy(), chunk.slots.numpy())
        logits = teacher.logits(chunk.views.flatten(0, 1))
        finite = valid_logits(logits)
        spec, seeds = self._spec, torch.from_numpy(self._rows.seed[here].astype(np.int64)).flatten()
        logits = torch.where(finite[:, None], logits, 0.0)
        signal = TeacherSignal.selected(logits, spec.selection, spec.top_k, spec.mass, seeds)
        self._rows.class_id[here] = signal.class_id.view(*shape, -1).cpu().numpy()
        self._rows.probability[here] = signal.probability.view(*shape, -1).cpu().numpy()
        self._rows.residual[here] = signal.residual.view(shape).cpu().numpy()
        self._rows.valid[here] = finite.view(shape).cpu().numpy() & chunk.decoded.numpy()
        self._digest[here] = chunk.digest.numpy()
        self._filled += chunk.digest.numel()
        self._decoded += int(chunk.decoded.sum())

    def refuse_nothing(self, teacher: Teacher) -> None:
        """UserError where not a single view has logits: something is wrong with all of them."""
        if self._rows.valid.any():
            return
        if not self._decoded:
            raise UserError(
                f"{self._place}: none of the {self._filled} views can be made, as no image can be decoded; run "
                f"`tinyvit data check` on the shards, and mend this one or leave it out"
            )
        raise UserError(
            f"{self._place}: the teacher {teacher.name} has no finite logits for any of the "
            f"{self._decoded} views: NaN or infinite for each; look at its weights, its mean and std, and its precision"
        )


def finish(store: LogitStore, progress: Progress, claims: Claims) -> None:
    """Verify what was labelled and seal the store, or wait for the run that does.

    UserError with the first fault when it is not sound.
    """
    while not claims.acquire_seal():
        time.sleep(LOOK_AGAIN)
    if LogitStore.open(store.location).sealed:
        claims.drop_seal()
        return
    units = faulty_units(store, progress)
    faults = [*store.faults(), *(f"{store.describe_unit(unit)}: {found[0]}" for unit, found in units.items())]
    if faults:
        raise UserError(
            f"{store.location} is not sound, {len(faults)} faults, the first: {faults[0]}; "
            f"run `tinyvit store verify --repair`, then label again"
        )
    store.seal()
    claims.drop_seal()
    claims.sweep()
