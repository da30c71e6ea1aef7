"""Stage 2: train a student, stage after stage, on stored answers or on labels, with no teacher in memory.

`train` runs the stages of a recipe in a run folder; each stage starts from the weights of the one before. What
a stage has finished is not done again, and a stage that was killed goes on after the last state that was saved, at the
end of an epoch or within it: with the next view that it has not seen, and to the same weights.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn

from storage import LogitStore, Unit, digest_of
from tinyvit.config import Recipe, Stage
from tinyvit.data.index import ShardIndex, index_shards
from tinyvit.data.loader import run_streams
from tinyvit.data.training_views import Batch, Replayed, TrainingViews
from tinyvit.errors import UserError
from tinyvit.evaluate import Evaluator
from tinyvit.losses import agreement, distillation_loss, label_loss
from tinyvit.pixels import default_device, normalise
from tinyvit.progress import Bar, Progress
from tinyvit.provenance import library_versions, now
from tinyvit.signal import TeacherSignal
from tinyvit.stage_folder import RESULT, StageFolder, read_json
from tinyvit.students import (
    adopt_weights,
    colours,
    create_student,
    input_size,
    load_weights,
    save_student,
)

log = logging.getLogger("tinyvit")


@dataclass(frozen=True)
class Run:
    """What every stage of a run shares."""

    recipe: Recipe
    folder: Path
    store: LogitStore | None
    index: ShardIndex
    device: torch.device
    workers: int
    progress: Progress


def train(run: Run, stages: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Run the named stages in order, each from the weights of the one before; yields the result of each."""
    before: Path | None = None
    for name in stages:
        yield train_stage(run, name, before)
        before = run.folder / name


def train_stage(run: Run, name: str, before: Path | None) -> dict[str, Any]:
    """Run one stage, from the weights in the folder `before` or from fresh ones, and return its result.

    The result holds stage, epochs, images_per_s, the last epoch's metrics, `val` (an Evaluation, for stages on
    labels with validation shards) and `checkpoint`, a folder that timm loads. A finished stage is not done again.
    """
    stage = run.recipe.stages[name]
    folder = StageFolder(run.folder / name, _stage_digest(run, stage, before))
    state = folder.read_state(run.device)
    if state and (result := read_json(folder.path, RESULT)):
        log.info("%s: already done, nothing to do", name)
        return result
    if state:
        within = f" and {state['so_far']['steps']} steps" if state["so_far"]["steps"] else ""
        log.info("%s: resumed after epoch %d of %d%s", name, state["epoch"], stage.epochs, within)
    trainer = StageTrainer(run, name, stage, before)
    folder.begin(_record(run))
    return trainer.run(folder, state)


def _stage_digest(run: Run, stage: Stage, before: Path | None) -> str:
    """Of everything that decides the outcome of a stage."""
    earlier = read_json(before, RESULT) if before else None
    return digest_of(
        [
            run.recipe.student.model_dump(mode="json"),
            list(run.index.table.sha256),
            stage.model_dump(mode="json", exclude={"save_minutes"}),
            run.recipe.augment_of(stage).model_dump(mode="json"),
            run.store.spec.to_attributes() if run.store and stage.target == "teacher" else None,
            earlier["digest"] if earlier else None,
        ]
    )


def _record(run: Run) -> dict[str, Any]:
    return {
        "recipe": run.recipe.model_dump(mode="json"),
        "recipe_digest": run.recipe.digest(),
        "store": run.store.location if run.store else None,
        "libraries": library_versions(),
        "device": str(run.device),
        "workers": run.workers,
        "time": now(),
    }


def open_run(
    recipe: Recipe,
    folder: Path,
    store: LogitStore | None,
    stages: Sequence[str],
    workers: int,
    progress: Progress,
) -> Run:
    """Check that the stages can run. UserError, one line, when they cannot."""
    if unknown := [name for name in stages if name not in recipe.stages]:
        raise UserError(f"the recipe has no stage {unknown[0]!r}; it has {', '.join(recipe.stages)}")
    if store is None and (needy := [n for n in stages if recipe.stages[n].target == "teacher"]):
        raise UserError(f"the stage {needy[0]!r} learns from a store; give one, or name stages on labels only")
    index = index_shards(recipe.data.train, progress)
    return Run(recipe, folder, store, index, default_device(), workers, progress)


@dataclass
class SoFar:
    """What an epoch under way has done; loss and agreement are sums over its steps."""

    steps: int = 0
    images: int = 0
    skipped: int = 0
    labelled: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    loss: float = 0.0
    agreed: float = 0.0


class StageTrainer:
    """One stage under way: model, optimiser, schedule and position."""

    def __init__(self, run: Run, name: str, stage: Stage, before: Path | None) -> None:
        self.settings, self.name, self.stage = run, name, stage
        classes = _num_classes(run, stage)
        model = create_student(run.recipe.student, classes, stage.seed)
        self.model = model.to(run.device).to(memory_format=torch.channels_last)
        if before is not None:
            adopt_weights(self.model, load_weights(before))
        self.mean, self.std = colours(self.model)
        self.epoch, self.so_far = 0, SoFar()
        self.metrics: list[dict[str, Any]] = []
        self.absent = frozenset(run.store.missing()) if run.store and not run.store.sealed else frozenset[Unit]()
        # Of a whole epoch: one of a store that lacks some units may have fewer.
        self.steps = sum(run.index.counts) // stage.batch_size
        if self.steps == 0:
            raise UserError(
                f"stage {name}: no whole batch of {stage.batch_size} in {sum(run.index.counts)} images; "
                f"lower stages.{name}.batch_size"
            )
        self.optimiser = create_optimizer_v2(self.model, opt="adamw", lr=stage.lr, weight_decay=stage.weight_decay)
        self.schedule: Scheduler = create_scheduler_v2(
            self.optimiser,
            num_epochs=stage.epochs,
            warmup_epochs=stage.warmup_epochs,  # type: ignore[arg-type]
            min_lr=stage.min_lr,
            warmup_prefix=False,
            step_on_epochs=False,
            updates_per_epoch=self.steps,
        )[0]

    def run(self, folder: StageFolder, state: dict[str, Any] | None) -> dict[str, Any]:
        """Train to the end, from the start or a saved state; returns the result."""
        settings, stage = self.settings, self.stage
        if state:
            self._restore(state)
        self._announce()
        images = (self.steps * (stage.epochs - self.epoch) - self.so_far.steps) * stage.batch_size
        with settings.progress.task(self.name, images, "images") as bar:
            evaluator = self._evaluator()
            views = [self._views(epoch) for epoch in range(self.epoch, stage.epochs)]
            streams = run_streams(views, settings.workers, pin_memory=settings.device.type == "cuda")
            for epoch, batches in zip(views, streams, strict=True):
                metrics = self._train_epoch(batches, epoch, folder, bar)
                if evaluator:
                    metrics["val"] = evaluator.measure(self.model).as_dict()
                self.metrics.append(metrics)
                folder.write_state(self._state())
                log.info("%s: epoch %d: %s", self.name, self.epoch, _metrics_line(metrics))
        save_student(folder.path, self.model, settings.recipe.student)
        return folder.finish(self._result(folder.path))

    def _evaluator(self) -> Evaluator | None:
        run = self.settings
        if self.stage.target != "labels" or run.recipe.data.val is None:
            return None
        left = self.stage.epochs - self.epoch
        return Evaluator(self.model, run.recipe.data.val, run.device, run.workers, left, run.progress)

    def _train_epoch(
        self, batches: Iterator[Batch], views: TrainingViews, folder: StageFolder, bar: Bar
    ) -> dict[str, Any]:
        run, stage, done = self.settings, self.stage, self.so_far
        steps = done.steps + views.steps
        if not steps:
            raise UserError(f"stage {self.name}: epoch {self.epoch + 1} has no whole batch of views with answers")
        if not done.steps:
            # Drop path and dropout draw from here; seeding each epoch makes it the same after a resume.
            torch.manual_seed(digest_seed(stage.seed, self.name, self.epoch))
        self.model.train()
        sums = torch.tensor([done.loss, done.agreed], device=run.device)
        mark = saved = time.monotonic()
        for batch in batches:
            done.waited += time.monotonic() - mark
            done.steps, done.images = done.steps + 1, done.images + len(batch)
            done.skipped, done.labelled = done.skipped + batch.skipped, done.labelled + batch.labelled
            sums += torch.stack(self._step(batch, round((self.epoch + done.steps / steps) * self.steps)))
            save = mark - saved >= 60 * stage.save_minutes and done.steps < steps
            if (save or done.steps % 20 == 0) and not torch.isfinite(sums[0]):
                raise UserError(_diverged(self.name, self.epoch))
            bar.advance(stage.batch_size, f"epoch {self.epoch + 1}/{stage.epochs}")
            done.seconds, mark = done.seconds + time.monotonic() - mark, time.monotonic()
            if save:
                done.loss, done.agreed = sums.tolist()
                folder.write_state(self._state())
                saved = time.monotonic()
        mean_loss, mean_agreement = (sums / done.steps).tolist()
        if mean_loss != mean_loss:
            raise UserError(_diverged(self.name, self.epoch))
        self.epoch, self.so_far = self.epoch + 1, SoFar()
        return {
            "epoch": self.epoch,
            "loss": mean_loss,
            "agreement" if stage.target == "teacher" else "train_top1": 100 * mean_agreement,
            "lr": self.optimiser.param_groups[0]["lr"],
            "images": done.images,
            "skipped": done.skipped,
            "labelled": done.labelled,
            "left_out": views.left_out,
            "images_per_s": done.images / done.seconds,
            "waiting_for_data": done.waited / done.seconds,
        }

    def _step(self, batch: Batch, update: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One update; returns the loss and the share of views on which the student's best class is right."""
        run, stage = self.settings, self.stage
        if not len(batch):
            raise UserError(f"stage {self.name}: no view of a whole batch can be learned; verify the store")
        with torch.autocast(run.device.type, torch.bfloat16, enabled=run.device.type == "cuda"):
            logits = self.model(normalise(batch.views, self.mean, self.std, run.device))
        classes = logits.shape[1]
        if (highest := int(batch.class_id.max())) >= classes:
            raise UserError(f"a sample has the label {highest}, but classes.txt names {classes} classes; mend it")
        signal = TeacherSignal(batch.class_id, batch.probability, batch.residual, classes)
        signal = signal.truncate(stage.top_k or classes).to(run.device)
        if stage.target == "teacher":
            loss = distillation_loss(logits, signal, stage.residual)
        else:
            loss = label_loss(logits, signal, stage.label_smoothing)
        agreed = agreement(logits, signal)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if stage.clip_grad:
            nn.utils.clip_grad_norm_(self.model.parameters(), stage.clip_grad)
        self.optimiser.step()
        self.schedule.step_update(update)
        return loss.detach(), agreed

    def _views(self, epoch: int) -> TrainingViews:
        run, stage = self.settings, self.stage
        stored = self._replayed(run.store, epoch) if run.store and stage.target == "teacher" else None
        return TrainingViews(
            index=run.index,
            augment=run.recipe.label.augment if stored else run.recipe.augment_of(stage),
            size=input_size(self.model),
            batch_size=stage.batch_size,
            epoch=epoch,
            seed=stage.seed,
            stored=stored,
            missing=stage.missing,
            broken=run.recipe.label.on_broken,
            first=self.so_far.steps * stage.batch_size if epoch == self.epoch else 0,
        )

    def _replayed(self, store: LogitStore, epoch: int) -> Replayed:
        """The stored epoch that is learned in an epoch of training."""
        stored = epoch % (self.stage.stored_epochs or store.spec.epochs)
        block = stored // store.spec.epochs_per_unit
        absent = frozenset(unit.shard for unit in self.absent if unit.block == block)
        return Replayed(store.location, stored, store.spec.run_seed, absent)

    def _announce(self) -> None:
        run, stage = self.settings, self.stage
        parameters = sum(p.numel() for p in self.model.parameters()) / 1e6
        left = self._views(self.epoch).left_out
        log.info(
            "%s: %s, %.2f M parameters, %d epochs of %d steps of %d images, %d left out each epoch",
            self.name, run.recipe.student.name, parameters, stage.epochs, self.steps, stage.batch_size, left,
        )  # fmt: skip
        if stage.target != "teacher" or not run.store:
            return
        stored = stage.stored_epochs or run.store.spec.epochs
        if stage.epochs > stored:
            log.info(
                "%s: %d epochs to train, %d stored: they are used in turn, each %d times or more",
                self.name, stage.epochs, stored, stage.epochs // stored,
            )  # fmt: skip
        if self.absent:
            log.info(
                "%s: %d of the store's %d units are missing; missing=%s decides about their views",
                self.name, len(self.absent), len(run.store.units()), stage.missing,
            )  # fmt: skip

    def _state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "metrics": self.metrics,
            "so_far": vars(self.so_far),
            # The order of an epoch under way must not change when units are labelled meanwhile.
            "absent": sorted((unit.block, unit.shard) for unit in self.absent),
            "generators": [torch.get_rng_state(), *torch.cuda.get_rng_state_all()],
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epoch, self.metrics = state["epoch"], state["metrics"]
        if state["so_far"]["steps"]:
            self.so_far = SoFar(**state["so_far"])
            self.absent = frozenset(Unit(block, shard) for block, shard in state["absent"])
            on_cpu, *on_cuda = (generator.cpu() for generator in state["generators"])
            torch.set_rng_state(on_cpu)
            torch.cuda.set_rng_state_all(on_cuda)

    def _result(self, folder: Path) -> dict[str, Any]:
        metrics = self.metrics
        images = sum(m["images"] for m in metrics)
        return {
            "stage": self.name,
            "target": self.stage.target,
            "epochs": self.epoch,
            "images_per_s": images / sum(m["images"] / m["images_per_s"] for m in metrics),
            "skipped": sum(m["skipped"] for m in metrics),
            "labelled": sum(m["labelled"] for m in metrics),
            "last": metrics[-1],
            "val": metrics[-1].get("val"),
            "checkpoint": str(folder),
            "finished": now(),
        }


def digest_seed(*parts: object) -> int:
    """A 63-bit seed from its parts."""
    return int(digest_of([str(part) for part in parts])[:15], 16)


def _num_classes(run: Run, stage: Stage) -> int:
    if stage.target == "teacher":
        assert run.store
        return run.store.spec.num_classes
    names = run.index.place.class_names()
    if names is None:
        raise UserError(
            f"{run.recipe.data.train} has no classes.txt beside or above its shards; write one, a class name a "
            f"line in the order of the labels"
        )
    return len(names)


def _diverged(name: str, epoch: int) -> str:
    return (
        f"stage {name}: the loss of epoch {epoch + 1} is not a number; lower stages.{name}.lr, "
        f"the last saved state is kept"
    )


def _metrics_line(metrics: dict[str, Any]) -> str:
    parts = [f"loss {metrics['loss']:.4f}"]
    parts += [f"{k.replace('_', ' ')} {metrics[k]:.1f} %" for k in ("agreement", "train_top1") if k in metrics]
    if val := metrics.get("val"):
        parts.append(f"val top-1 {val['top1']:.1f} %")
    parts += [f"{metrics['images_per_s']:.0f} images/s", f"waiting {100 * metrics['waiting_for_data']:.0f} %"]
    return ", ".join(parts)
