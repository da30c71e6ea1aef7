"""Which views a stage is shown: those of a stored or freshly answered epoch, or new ones on labels."""

from __future__ import annotations

import logging

from logitstore import Unit
from tinyvit.data.index import ShardIndex
from tinyvit.data.training_views import TrainingViews, counts_of
from tinyvit.errors import UserError
from tinyvit.tasks.classes import StageClasses
from tinyvit.training.run import Run

log = logging.getLogger("tinyvit")


class Epochs:
    """The epochs of a stage whose student takes `size` pixels a side and tells `classes` apart, for this rank."""

    def __init__(self, run: Run[ShardIndex], name: str, size: int, classes: StageClasses) -> None:
        self._run, self._name, self._size, self._classes = run, name, size, classes
        self._stage = stage = run.recipe.stages[name]
        self._source = run.taught if stage.target == "teacher" else None
        micro, world = run.recipe.engine.micro_batch, run.world.size
        if stage.batch_size < world:
            raise UserError(f"stage {name}: {world} processes cannot share a batch_size of {stage.batch_size}")
        share = -(-stage.batch_size // world)
        self.parts = -(-share // micro) if micro else 1
        # Of a whole epoch: one of a store that lacks some units may have fewer.
        images = sum(counts_of(run.data, run.shards))
        self.steps = images // stage.batch_size
        if self.steps == 0:
            raise UserError(
                f"stage {name}: no whole batch of {stage.batch_size} in {images} images; lower stages.{name}.batch_size"
            )
        # The order of an epoch under way must not change when units are labelled meanwhile: a state keeps these.
        self.absent = self._source.absent() if self._source else frozenset[Unit]()

    def views(self, epoch: int, done: int = 0) -> TrainingViews:
        """The views of an epoch after so many steps."""
        run, stage = self._run, self._stage
        source = self._source
        stored = epoch % (stage.stored_epochs or source.epochs) if source else 0
        return TrainingViews(
            index=run.data,
            augment=run.recipe.augment_of(stage),
            decode=run.recipe.data.decode,
            size=self._size,
            num_classes=self._classes.count,
            batch_size=stage.batch_size,
            epoch=epoch,
            seed=stage.seed,
            replayed=source.replayed(stored, self.absent) if source else None,
            labels=stage.target == "labels" or stage.label_weight > 0,
            label_classes=self._classes.of_labels,
            teacher_size=source.view_size if source else None,
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
        stage, source = self._stage, self._source
        if source is None:
            return
        stored = stage.stored_epochs or source.epochs
        if stage.epochs > stored:
            log.info(
                "%s: %d epochs to train, %d stored: they are used in turn, each %d times or more",
                self._name, stage.epochs, stored, stage.epochs // stored,
            )  # fmt: skip
        if self.absent:
            log.info(
                "%s: %d of the store's %d units are missing; missing=%s decides about their views",
                self._name, len(self.absent), source.units, stage.missing,
            )  # fmt: skip
