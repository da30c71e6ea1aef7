"""The engine: one stage of training, from batches of views to weights, whatever is learned."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from logitstore import digest_of
from tinyvit.data.loader import run_streams
from tinyvit.errors import Stopped, UserError
from tinyvit.runtime.progress import Bar
from tinyvit.runtime.provenance import now
from tinyvit.training.beforehand import refuse_empty_epochs
from tinyvit.training.folder import BEST, StageFolder
from tinyvit.training.metric_logger import MetricLogger
from tinyvit.training.model_runner import ModelRunner
from tinyvit.training.optimiser import Optimiser
from tinyvit.training.run import Run
from tinyvit.training.step_meter import EpochTotals, StepMeter, peak_memory_mib
from tinyvit.training.task import Batch, EpochViews, Task, Validation

log = logging.getLogger("tinyvit")

# Epochs of few images would be told faster than anyone reads.
TOLD_SECONDS = 5.0
# What ranks agree on after each step; the highest wish wins.
GO_ON, SAVE, STOP = range(3)


class Trainer:
    """One stage under way: its network, optimiser and task, and how far it is."""

    def __init__(self, run: Run[Any], name: str, folder: StageFolder, task: Task) -> None:
        self.settings, self.name, self.folder, self.task = run, name, folder, task
        self.stage = stage = run.recipe.stages[name]
        self.network = ModelRunner(
            task.model, run.recipe.engine, run.world, stage.eval_batch_norm, task.fixed_input_size
        )
        self.optimiser = Optimiser(self.network.model, stage, task.steps, self.network.needs_grad_scaler)
        # How far it is: whole epochs and their metrics, steps of the next one and what they counted.
        self.epoch, self.done = 0, list[dict[str, Any]]()
        self.step, self.totals = 0, EpochTotals()
        self._told = float("-inf")

    def run(self, state: dict[str, Any] | None) -> dict[str, Any]:
        """Train to the end, from the start or a saved state; returns the result."""
        run, stage = self.settings, self.stage
        if state:
            self._restore(state)
        views = [self.task.views(n, self.step if n == self.epoch else 0) for n in range(self.epoch, stage.epochs)]
        refuse_empty_epochs(self.name, self.epoch, self.step, views)
        self._announce(views)
        measured = sum(map(self._is_measured, range(self.epoch, stage.epochs)))
        validation = self.task.validation(measured, self.network.dtype) if run.recipe.data.val and views else None
        metric_logger = self._metric_logger() if run.world.is_main else None
        images = (self.task.steps * len(views) - self.step) * stage.batch_size
        with run.progress.task(self.name, images, "images") as bar:
            streams = run_streams(views, run.workers, run.world.device.type == "cuda", run.stop)
            for epoch, batches in zip(views, streams, strict=True):
                metrics = self._train_epoch(epoch, batches, metric_logger, bar)
                if validation and self._is_measured(self.epoch):
                    metrics["val"] = self._validate(validation, metric_logger)
                self.done.append(metrics)
                self.epoch, self.step, self.totals = self.epoch + 1, 0, EpochTotals()
                self._save()
                self._tell(metrics)
        if metric_logger:
            metric_logger.close()
            self.task.save(self.folder.path, self.optimiser.best_model)
            self.folder.finish(self._result())
        return self._result()

    def _tell(self, metrics: dict[str, Any]) -> None:
        """A line on the epoch that has ended: where it was measured or is the last; on others one every few seconds."""
        late = time.monotonic() - self._told >= TOLD_SECONDS
        if late or metrics.get("val") or self.epoch == self.stage.epochs:
            self._told = time.monotonic()
            log.info("%s: epoch %d: %s", self.name, self.epoch, _metrics_line(metrics, self.task))

    def _is_measured(self, epoch: int) -> bool:
        """Whether an epoch ends with a validation: every few of them, and the last."""
        return (epoch + 1) % self.settings.recipe.engine.val_interval == 0 or epoch + 1 == self.stage.epochs

    def _train_epoch(
        self, views: EpochViews, batches: Iterator[Batch], metric_logger: MetricLogger | None, bar: Bar
    ) -> dict[str, Any]:
        """The steps of an epoch that are left."""
        stage, engine, world = self.stage, self.settings.recipe.engine, self.settings.world
        steps = self.step + views.steps
        self.network.train()
        meter, saved = StepMeter(world, self.totals, self.network.needs_grad_scaler), time.monotonic()
        note = f"epoch {self.epoch + 1}/{stage.epochs}"
        for step in range(self.step, steps):
            for part in range(self.task.grad_accum_steps):
                batch = self._next_batch(meter, batches)
                # Drop path and dropout draw from here: what they draw follows from the step, so that a resume repeats
                # it. After the batch is there, because the loader draws too when it begins.
                torch.manual_seed(_seed(stage.seed, self.name, self.epoch, step, part, world.rank))
                few = not len(batch) or (batch.skipped > 0 and len(batch) == 1)
                with self.network.accumulate(last=part == self.task.grad_accum_steps - 1, few=few):
                    loss, right = self.task.learn(self.network, batch)
                    # A step is the mean over all its views, wherever they are: ranks average their gradients.
                    self.optimiser.backward(loss.sum() * (world.size / stage.batch_size))
                meter.add(loss, right, batch)
            norm = self.optimiser.step(self._number(step + 1, steps))
            meter.end_step(norm)
            self.step = step + 1
            bar.advance(stage.batch_size, note)
            due = time.monotonic() - saved >= 60 * engine.save_minutes
            verdict = world.all_reduce_max(STOP if self.settings.stop.is_set() else SAVE if due else GO_ON)
            if verdict or self.step % engine.log_steps == 0 or self.step == steps:
                metrics = self._read_metrics(meter, norm, views)
                note = f"epoch {self.epoch + 1}/{stage.epochs}, loss {metrics['loss']:.3f}"
                if metric_logger:
                    metric_logger.write(self._number(self.step, steps), metrics)
                if verdict == STOP or (verdict == SAVE and self.step < steps):
                    self._save()
                    saved = time.monotonic()
                meter.restart_clock()
            if verdict == STOP:
                raise Stopped(
                    f"stage {self.name}: stopped and saved after epoch {self.epoch} and {self.step} steps; "
                    f"the same command goes on from there"
                )
        return {**self._metrics(meter.totals), "left_out": views.left_out}

    def _next_batch(self, meter: StepMeter, batches: Iterator[Batch]) -> Batch:
        try:
            return meter.next_batch(batches)
        except Stopped as told:
            # Others would have to agree on what was done since the last look.
            if self.settings.world.size == 1:
                meter.synchronise()
                self.totals = meter.totals
                self._save()
            raise Stopped(
                f"stage {self.name}: {told}, after epoch {self.epoch} and {self.step} steps; the same command goes on "
                f"from the last saved state"
            ) from told

    def _number(self, step: int, steps: int) -> int:
        """A step's number on the way through all epochs, also where an epoch has fewer than others."""
        return round((self.epoch + step / steps) * self.task.steps)

    def _read_metrics(self, meter: StepMeter, norm: Tensor, views: EpochViews) -> dict[str, Any]:
        """Metrics since the last look. UserError when they should not be gone on from."""
        done, finite = meter.synchronise()
        self.totals = meter.totals
        if not done.images and not done.dropped:
            raise UserError(
                f"stage {self.name}, epoch {self.epoch + 1}: of the last {len(finite)} steps no view can be learned, "
                f"{done.skipped:.0f} were skipped; look at them with tinyvit data check and store verify"
            )
        if done.dropped and (self.stage.non_finite == "error" or done.dropped >= len(finite)):
            raise UserError(self._diverged(finite, views))
        return self._metrics(done) | {"grad_norm": norm.item()}

    def _metrics(self, done: EpochTotals) -> dict[str, Any]:
        return {
            "epoch": self.epoch + 1,
            **done.means(self.task.metrics.train),
            "lr": self.optimiser.learning_rate,
            "memory_mib": peak_memory_mib(self.settings.world.device),
        }

    def _diverged(self, finite: list[bool], views: EpochViews) -> str:
        """What went wrong in the last steps, of which `finite` says how this rank's losses were."""
        first = self.step - len(finite)
        where = f"stage {self.name}, epoch {self.epoch + 1}, "
        advice = f"lower stages.{self.name}.lr, or set non_finite=skip; the last saved state is kept"
        if all(finite):
            steps = f"{first + 1} to {self.step}"
            return f"{where}steps {steps}: a gradient, or another process's loss, is not finite; {advice}"
        step = first + finite.index(False)
        # The views were read from the epoch's step `views.start / batch_size` on.
        keys = views.keys(step - views.start // self.stage.batch_size)
        file = self.folder.path / f"non_finite-rank{views.rank}.txt"
        file.write_text("\n".join(keys) + "\n")
        return f"{where}step {step + 1}: the loss of {keys[0]} and others (all in {file}) is not finite; {advice}"

    def _validate(self, validation: Validation, metric_logger: MetricLogger | None) -> dict[str, Any]:
        """Measure, and keep the network when it is the best so far."""
        run, model, task = self.settings, self.optimiser.best_model, self.task
        run.world.broadcast(model.buffers())
        val = validation(model)
        if metric_logger:
            metric_logger.plot(
                (self.epoch + 1) * task.steps,
                {f"val_{key}": val[key] for key in task.metrics.curves if val[key] is not None},
            )
            measured = [metrics["val"] for metrics in self.done if metrics.get("val")]
            best = max((earlier[task.metrics.best_by] or 0.0 for earlier in measured), default=-1.0)
            if (val[task.metrics.best_by] or 0.0) > best:
                task.save(self.folder.path / BEST, model)
        return val

    def _metric_logger(self) -> MetricLogger:
        run, steps = self.settings, self.step
        if self.epoch < self.stage.epochs:
            steps += self.task.views(self.epoch, self.step).steps
        number = self._number(self.step, max(steps, 1))
        name = f"{run.folder.name}/{self.name}"
        return MetricLogger(self.folder.path, name, number, run.wandb, run.recipe.record())

    def _announce(self, views: list[EpochViews]) -> None:
        run, stage = self.settings, self.stage
        parameters = sum(p.numel() for p in self.network.model.parameters()) / 1e6
        log.info(
            "%s: %s, %.2f M parameters, %d epochs of %d steps of %d images, %d left out each epoch",
            self.name, run.recipe.student.name, parameters, stage.epochs, self.task.steps, stage.batch_size,
            views[0].left_out if views else 0,
        )  # fmt: skip
        if run.world.size > 1 or self.task.grad_accum_steps > 1:
            log.info(
                "%s: %d processes, each with its share in %d parts",
                self.name,
                run.world.size,
                self.task.grad_accum_steps,
            )
        self.task.log_setup()

    def _save(self) -> None:
        """Keep how far it is. Batches, learning rates and random draws follow from that: there are no generators."""
        if self.settings.world.is_main:
            self.folder.write_state(
                {
                    "epoch": self.epoch,
                    "step": self.step,
                    "totals": asdict(self.totals),
                    "epochs": self.done,
                    **self.task.state(),
                    "model": self.network.model.state_dict(),
                    "optimiser": self.optimiser.state(),
                }
            )

    def _restore(self, state: dict[str, Any]) -> None:
        self.epoch, self.done = state["epoch"], state["epochs"]
        self.step, self.totals = state["step"], EpochTotals(**state["totals"])
        self.network.model.load_state_dict(state["model"])
        self.optimiser.restore(state["optimiser"])
        if self.step:
            self.task.restore(state)

    def _result(self) -> dict[str, Any]:
        epochs = self.done
        measured = [metrics for metrics in epochs if metrics.get("val")]
        by = self.task.metrics.best_by
        best = max(measured, key=lambda metrics: metrics["val"][by] or 0.0) if measured else None
        return {
            "stage": self.name,
            "target": self.stage.target,
            "epochs": self.epoch,
            "images_per_s": sum(e["images"] for e in epochs) / sum(e["images"] / e["images_per_s"] for e in epochs),
            "skipped": sum(e["skipped"] for e in epochs),
            "labelled": sum(e["labelled"] for e in epochs),
            "dropped_steps": sum(e["dropped_steps"] for e in epochs),
            **self.task.counted(),
            "last": epochs[-1],
            "val": epochs[-1].get("val"),
            "best": best and {"epoch": best["epoch"], **best["val"], "checkpoint": str(self.folder.path / BEST)},
            "checkpoint": str(self.folder.path),
            "finished": now(),
        }


def _seed(*parts: object) -> int:
    """A 63-bit seed from its parts."""
    return int(digest_of([str(part) for part in parts])[:15], 16)


def _metrics_line(metrics: dict[str, Any], task: Task) -> str:
    parts = [f"loss {metrics['loss']:.4f}"]
    names = task.metrics
    if names.train in metrics:
        parts += [f"{names.train.replace('_', ' ')} {metrics[names.train]:.1f} %"]
    if val := metrics.get("val"):
        parts += [f"val {word} {val[name]:.1f} %" for name, word in names.told if val.get(name) is not None]
        parts += [f"{val['broken']} broken images left out of it"] if val.get("broken") else []
    parts += [f"{metrics['images_per_s']:.0f} images/s", f"waiting {100 * metrics['waiting_for_data']:.0f} %"]
    return ", ".join(parts)
