"""Does it work on CUDA at all: what the engine can do, each tried on the example's images, which are in the checkout.

A check says in a few words what it found, or ends with the fault.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.data import QUICK
from benchmarks.gpu.jobs import Clock, Figures, faulty, one_line
from benchmarks.gpu.report import Note, Row
from benchmarks.gpu.settings import Settings
from logitstore import LogitStore
from tinyvit.cli.output import stopping_by_signal
from tinyvit.config import Recipe, load_recipe
from tinyvit.data.loader import run_streams
from tinyvit.data.location import resolve_data
from tinyvit.errors import Stopped, UserError
from tinyvit.evaluation import evaluate, load_eval_model, open_images
from tinyvit.labelling.label import label_store
from tinyvit.models import load_weights
from tinyvit.models.teachers import load_teacher
from tinyvit.runtime.distributed import World, join_world
from tinyvit.runtime.gpu_lock import reserve_gpu
from tinyvit.runtime.progress import Bar, SilentProgress
from tinyvit.tasks.distillation import DistillationTask
from tinyvit.tasks.run import open_run
from tinyvit.tasks.signals import LiveSignals, StoredSignals
from tinyvit.training.folder import RESULT, StageFolder, read_json
from tinyvit.training.metric_logger import METRICS, read_lines
from tinyvit.training.model_runner import precision_of
from tinyvit.training.run import Run
from tinyvit.training.step_meter import EpochTotals, StepMeter
from tinyvit.training.train import train_stage
from tinyvit.training.trainer import Trainer

COLUMNS = ("check", "outcome", "what was found")
ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "fashion-mnist"
SHARDS = {"train": 2, "val": 1}
# The example in one short epoch; exact logits, which differ from live ones by what is computed and nothing else.
SHORT = (
    f"label.teacher={QUICK}", "label.epochs=1", "label.epochs_per_unit=1", "label.input_size=32",
    "label.encoding=exact", "student.kwargs.img_size=32", "engine.log_steps=1",
    *(f"stages.{stage}.{fix}" for stage in ("distill", "finetune")
      for fix in ("epochs=1", "warmup_epochs=0", "batch_size=50")),
)  # fmt: skip
# Losses, in nats: what other sums and bfloat16 make of them in ten steps, and what another batch of the teacher does.
ROUNDING, COARSE = 1e-2, 0.1


@dataclass(frozen=True)
class Bench:
    """The example's shards, the store of their logits, and where runs go."""

    folder: Path
    workers: int
    clock: Clock

    @property
    def device(self) -> torch.device:
        """The GPU, where there is one."""
        return World().device

    @property
    def store(self) -> Path:
        """The store, once the first check has made it."""
        return self.folder / "store"

    def recipe(self, *changes: str) -> Recipe:
        """The example, short."""
        return resolve_data(load_recipe("example", (*SHORT, *changes)), self.folder / "data")

    def open(self, name: str, stage: str, *changes: str, **options: Any) -> Run[Any]:
        """A run of a stage; learns from the store unless `options` say otherwise."""
        recipe, world = self.recipe(*changes), options.pop("world", None)
        run = open_run(recipe, self.folder / "runs" / name, [stage], self.workers, SilentProgress(), world)
        if "signals" not in options and stage == "distill":
            options["signals"] = StoredSignals(LogitStore.open(str(self.store)))
        return replace(run, **options)

    def train(self, name: str, *changes: str, stage: str = "distill", **options: Any) -> list[float]:
        """Train a stage; the losses of its steps."""
        run = self.open(name, stage, *changes, **options)
        train_stage(run, stage, None)
        losses = [line["loss"] for line in read_lines(run.folder / stage / METRICS)]
        if not losses or not all(map(_finite, losses)):
            raise RuntimeError(f"losses {losses}")
        return losses

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        """What a run on the store ended with."""
        return load_weights(self.folder / "runs" / name / "distill")


def measure(settings: Settings, _figures: Figures, clock: Clock) -> Iterator[Row | Note]:
    """Every check, in order."""
    # cuBLAS looks at it once, at the first product of a process; the check of equal weights comes after others.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    bench = Bench(settings.folder / "checks", min(settings.beside, 1), clock)
    _copy_shards(bench.folder / "data")
    for name, check in CHECKS.items():
        if clock.left <= 0:
            yield Note("checks", f"{name}: left out for time")
            continue
        try:
            outcome, found = "works", check(bench)
        except NotHere as why:
            outcome, found = "not here", str(why)
        except Exception as fault:  # the next one may work
            outcome, found = "fails", one_line(fault)
            yield faulty("checks", name, fault)
        yield Row("checks", (name, outcome, found), {"check": name, "outcome": outcome, "found": found})


class NotHere(Exception):
    """A check of what this machine does not have."""


def _copy_shards(out: Path) -> None:
    for split, count in SHARDS.items():
        (out / split).mkdir(parents=True)
        for file in (*sorted((EXAMPLE / split).glob("*.tar"))[:count], EXAMPLE / split / "classes.txt"):
            shutil.copy(file, out / split)


def _finite(value: float) -> bool:
    return abs(value) < float("inf")


def _need_cuda(bench: Bench) -> None:
    if bench.device.type != "cuda":
        raise NotHere("needs a GPU")


def _label(bench: Bench) -> str:
    teacher = load_teacher(QUICK, reserve_gpu(), None)
    store, reports = label_store(bench.recipe(), bench.store, teacher, bench.workers, SilentProgress())
    if not store.sealed or any(report.invalid for report in reports):
        raise RuntimeError(f"sealed: {store.sealed}; {sum(report.invalid for report in reports)} views have no logits")
    return f"{sum(report.views for report in reports)} views, verified and sealed"


def _alike(*changes: str, within: float = COARSE) -> Callable[[Bench], str]:
    """That a setting of the engine changes no loss by more than this, against float32 without it."""

    def check(bench: Bench) -> str:
        plain, name = bench.folder / "runs" / "plain" / "distill" / METRICS, "-".join(changes).replace("=", "-")
        usual = [line["loss"] for line in read_lines(plain)] or bench.train("plain", "engine.precision=float32")
        first = () if any("precision" in change for change in changes) else ("engine.precision=float32",)
        changed = bench.train(name, *first, *changes)
        return _difference(usual, changed, within)

    return check


def _difference(one: list[float], two: list[float], within: float) -> str:
    largest = max(abs(a - b) for a, b in zip(one, two, strict=True))
    if largest > within:
        raise RuntimeError(f"losses differ by up to {largest:.3g}, more than {within}")
    return f"{len(one)} losses differ by at most {largest:.2g} nat"


def _average(bench: Bench) -> str:
    bench.train("average", "stages.distill.ema=0.9")
    bench.train("alone")
    if all(torch.equal(a, b) for a, b in zip(_values(bench, "average"), _values(bench, "alone"), strict=True)):
        raise RuntimeError("the average is what was averaged")
    return "another network is kept than the last one"


def _values(bench: Bench, name: str) -> list[torch.Tensor]:
    return list(bench.weights(name).values())


def _synchronised(bench: Bench) -> str:
    _need_cuda(bench)
    return _alike("engine.sync_batch_norm=true")(bench)


def _pinned(bench: Bench) -> str:
    _need_cuda(bench)
    task = DistillationTask(bench.open("pinned", "distill"), "distill", None)
    for workers in (0, 1):
        (batches,) = run_streams([task.views(0)], workers, pin_memory=True)
        for batch in batches:
            if not (batch.views.is_pinned() and batch.signal.probability.is_pinned()):
                raise RuntimeError(f"a batch is not in page-locked memory, with {workers} data processes")
    return "views and logits, by this process and by a data process"


def _waits(bench: Bench) -> str:
    """That no step waits for the device: the processor works ahead of it."""
    _need_cuda(bench)
    run = bench.open("waits", "distill", "engine.log_steps=1000")
    task = DistillationTask(run, "distill", None)
    trainer = Trainer(run, "distill", StageFolder(bench.folder / "runs" / "none", ""), task)
    (batches,) = run_streams([task.views(0)], 0, pin_memory=True)
    meter = StepMeter(run.world, EpochTotals(), scaled=False)
    try:
        # In the first one algorithms are tried and the optimiser's state is made.
        for step, batch in zip(range(4), batches, strict=False):
            torch.cuda.set_sync_debug_mode("error" if step else "default")
            loss, right = task.learn(trainer.network, batch)
            trainer.optimiser.backward(loss.mean())
            meter.add(loss, right, batch)
            meter.end_step(trainer.optimiser.step(1))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "forward, backward, update and counting of three steps"


class _Stopper:
    """A progress that sends SIGTERM to its own process at the fourth step."""

    def __init__(self) -> None:
        self._steps = 0

    @contextmanager
    def task(self, name: str, total: float, unit: str) -> Iterator[Bar]:
        yield self

    def advance(self, amount: float, note: str = "") -> None:
        self._steps += 1
        if self._steps == 4:
            os.kill(os.getpid(), signal.SIGTERM)


def _resumed(bench: Bench) -> str:
    exact = ("engine.deterministic=true", "student.kwargs.drop_path_rate=0.1")
    bench.train("straight", *exact)
    with stopping_by_signal() as stop:
        try:
            bench.train("stopped", *exact, progress=_Stopper(), stop=stop)
            raise RuntimeError("the run was not stopped by SIGTERM")
        except Stopped as told:
            where = str(told).partition(";")[0].rpartition("saved ")[2]
    bench.train("stopped", *exact)
    one, two = bench.weights("straight"), bench.weights("stopped")
    if unlike := [name for name in one if not torch.equal(one[name], two[name])]:
        raise RuntimeError(f"{len(unlike)} of {len(one)} weights differ, the first is {unlike[0]}")
    return f"equal weights, stopped {where}"


def _evaluated(bench: Bench) -> str:
    bench.train("labels", stage="finetune")
    folder = bench.folder / "runs" / "labels" / "finetune"
    images = open_images(str(bench.folder / "data" / "val"), SilentProgress())
    subject, world = load_eval_model(str(folder), bench.device), World()
    dtype = precision_of("auto", bench.device)
    (found,) = evaluate(subject, [images], world, bench.workers, dtype, SilentProgress(), "evaluate")
    recorded = (read_json(folder, RESULT) or {})["val"]["top1"]
    if abs(found.top1 - recorded) > 1:
        raise RuntimeError(f"top-1 of {found.top1:.1f} %, while training measured {recorded:.1f} %")
    return f"top-1 of {found.top1:.1f} % of {found.images}, as training measured"


def _offline(bench: Bench) -> str:
    teacher = load_teacher(QUICK, bench.device, None)
    live = LiveSignals(teacher, bench.recipe().label)
    stored = bench.train("offline", "engine.deterministic=true")
    return _difference(stored, bench.train("online", "engine.deterministic=true", signals=live), ROUNDING)


def _ranks(bench: Bench) -> str:
    """The code of several ranks, with NCCL on a GPU, in a group of one that takes itself for the first of two."""
    cuda = bench.device.type == "cuda"
    with _environment(_as_torchrun()), join_world() as world:
        first = replace(world, size=2)
        losses = bench.train("ranks", f"engine.sync_batch_norm={str(cuda).lower()}", world=first)
    return f"{len(losses)} steps of half the views, gradients averaged by {'NCCL' if cuda else 'gloo'}"


def _as_torchrun() -> dict[str, str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {
        "TORCHELASTIC_RUN_ID": "checks", "TORCHELASTIC_RESTART_COUNT": "0", "RANK": "0", "WORLD_SIZE": "1",
        "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
        os.environ.update(before)


def _torchrun(bench: Bench) -> str:
    run, changes = bench.folder / "runs" / "torchrun", (part for fix in SHORT for part in ("--set", fix))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1",
        "-m", "tinyvit", "train", "example", "--data", str(bench.folder / "data"), "--store", str(bench.store),
        "--run-dir", str(run), "--stage", "distill", "--workers", str(bench.workers), *changes,
    ]  # fmt: skip
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        command,
        cwd=bench.folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=max(bench.clock.left, 1),
        check=False,
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("tinyvit: ") or "Error" in line]
        raise UserError(said[0] if said else f"exit code {done.returncode}: {done.stderr[-200:]}")
    result = read_json(run / "distill", RESULT)
    assert result
    return f"a world of one rank, {result['last']['images']} images"


CHECKS: dict[str, Callable[[Bench], str]] = {
    "label": _label,
    "bfloat16": _alike("engine.precision=bfloat16"),
    "float16 with a scaled loss": _alike("engine.precision=float16"),
    "micro batches": _alike("engine.micro_batch=20"),
    "gradient checkpointing": _alike("engine.grad_checkpointing=true", within=ROUNDING),
    "synchronised batch norm": _synchronised,
    "average of the weights": _average,
    "page-locked memory": _pinned,
    "no step waits for the device": _waits,
    "on labels, and evaluate": _evaluated,
    "stored logits equal live ones": _offline,
    "SIGTERM and resume": _resumed,
    "the code of several ranks": _ranks,
    "torchrun": _torchrun,
}
