"""Which views a stage is shown: those of a stored or freshly answered epoch, or new ones on labels."""

from __future__ import annotations

import logging

from logitstore import Unit
from tinyvit.data.training_views import Replayed, TrainingViews
from tinyvit.errors import UserError
from tinyvit.training.run import Run

log = logging.getLogger("tinyvit")


class Epochs:
    """The epochs of a stage whose student takes `size` pixels a side and tells `num_classes` apart, for this rank;
    `label_classes` says which of them each label is.
    """

    def __init__(self, run: Run, name: str, size: int, num_classes: int, label_classes: tuple[int, ...] | None) -> None:
        self._run, self._name, self._size, self._num_classes = run, name, size, num_classes
        self._label_classes = label_classes
        self._stage = stage = run.recipe.stages[name]
        micro, world = run.recipe.engine.micro_batch, run.world.size
        if stage.batch_size < world:
            raise UserError(f"stage {name}: {world} processes cannot share a batch_size of {stage.batch_size}")
        share = -(-stage.batch_size // world)
        self.parts = -(-share // micro) if micro else 1
        # Of a whole epoch: one of a store that lacks some units may have fewer.
        self.steps = run.images // stage.batch_size
        if self.steps == 0:
            raise UserError(
                f"stage {name}: no whole batch of {stage.batch_size} in {run.images} images; "
                f"lower stages.{name}.batch_size"
            )
        # The order of an epoch under way must not change when units are labelled meanwhile: a state keeps these.
        self.absent = frozenset(run.store.missing()) if run.store and not run.store.sealed else frozenset[Unit]()

    def views(self, epoch: int, done: int = 0) -> TrainingViews:
        """The views of an epoch after so many steps."""
        run, stage = self._run, self._stage
        replayed = self._replayed(epoch) if stage.target == "teacher" else None
        asked = replayed is not None and replayed.location is None and run.teacher is not None
        return TrainingViews(
            index=run.index,
            augment=run.recipe.augment_of(stage),
            decode=run.recipe.data.decode,
            size=self._size,
            num_classes=self._num_classes,
            batch_size=stage.batch_size,
            epoch=epoch,
            seed=stage.seed,
            replayed=replayed,
            labels=stage.target == "labels" or stage.label_weight > 0,
            label_classes=self._label_classes,
            teacher_size=run.teacher_size if asked else None,
            missing=stage.missing,
            broken=run.recipe.data.broken,
            rank=run.world.rank,
            world=run.world.size,
            parts=self.parts,
            first=done * stage.batch_size,
            shards=run.shards,
        )

    def announce(self) -> None:
        """Say in the log how the store's epochs are used."""
        stage, store = self._stage, self._run.store
        if stage.target != "teacher" or not store:
            return
        stored = stage.stored_epochs or store.spec.epochs
        if stage.epochs > stored:
            log.info(
                "%s: %d epochs to train, %d stored: they are used in turn, each %d times or more",
                self._name, stage.epochs, stored, stage.epochs // stored,
            )  # fmt: skip
        if self.absent:
            log.info(
                "%s: %d of the store's %d units are missing; missing=%s decides about their views",
                self._name, len(self.absent), len(store.units()), stage.missing,
            )  # fmt: skip

    def _replayed(self, epoch: int) -> Replayed:
        """The labelled epoch that is learned in an epoch of training."""
        store, label = self._run.store, self._run.recipe.label
        if store is None:
            return Replayed(epoch % (self._stage.stored_epochs or label.epochs), label.seed, None)
        stored = epoch % (self._stage.stored_epochs or store.spec.epochs)
        block = stored // store.spec.epochs_per_unit
        absent = frozenset(unit.shard for unit in self.absent if unit.block == block)
        return Replayed(stored, store.spec.run_seed, store.location, absent)
