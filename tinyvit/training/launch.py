"""Training on several devices, of one machine or many, started from a program: what torchrun does from a shell."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import torch
import yaml

from logitstore import write_whole
from tinyvit.config import Recipe
from tinyvit.errors import Stopped, UserError
from tinyvit.training.folder import RESULT, read_json

log = logging.getLogger("tinyvit")

# How often all processes are started again when one of them dies.
RESTARTS = 3
# What the command line begins a user's fault with.
FAULT = "tinyvit: "


def default_processes() -> int:
    """One a GPU, or one."""
    return max(1, torch.cuda.device_count())


@dataclass(frozen=True)
class Ranks:
    """The processes that train together: `processes` on each of `nodes` machines.

    Several machines meet at `rendezvous`, HOST:PORT on one of them, and share the run folder.
    """

    processes: int
    nodes: int = 1
    rendezvous: str | None = None

    def __post_init__(self) -> None:
        if (self.nodes > 1) != (self.rendezvous is not None):
            raise UserError("nodes and rendezvous go together: give both, such as nodes=2 rendezvous=10.0.0.1:29400")

    @property
    def alone(self) -> bool:
        """Whether this process trains by itself."""
        return self.processes == self.nodes == 1

    def agent(self, name: str) -> list[str]:
        """The arguments of torchrun; all machines give the same name."""
        arguments = ["--nproc-per-node", str(self.processes), "--max-restarts", str(RESTARTS)]
        if not self.rendezvous:
            return ["--standalone", *arguments]
        meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", self.rendezvous, "--rdzv-id", name]
        return ["--nnodes", str(self.nodes), *meeting, *arguments]


def train_on_devices(
    recipe: Recipe, folder: Path, stages: Sequence[str], store: str | None, ranks: Ranks, stop: Event
) -> dict[str, Any]:
    """Run stages, of which those that are finished are not done again, in these processes; the last one's result.

    On several machines each calls this. UserError with the line that a process ended with. Stopped when `stop` was set
    and they have saved.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "recipe.yaml"
    write_whole(file, yaml.safe_dump(recipe.record(), sort_keys=False).encode())
    agent = ranks.agent(f"{folder.name}-{stages[-1]}")
    command = [sys.executable, "-m", "torch.distributed.run", *agent, "-m", "tinyvit", "train", str(file)]
    command += ["--run-dir", str(folder)]
    command += [argument for stage in stages for argument in ("--stage", stage)]
    command += ["--store", store] if store else []
    fault = ""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603, our own
        assert process.stderr
        stopper = Thread(target=_stop_with, args=(process, stop), daemon=True)
        stopper.start()
        try:
            for line in process.stderr:
                log.info("%s", line.rstrip())
                fault = line.removeprefix(FAULT).strip() if line.startswith(FAULT) else fault
        finally:
            process.terminate()
    result = read_json(folder / stages[-1], RESULT)
    if stop.is_set() and result is None:
        raise Stopped(fault or "the training processes were stopped; the same command goes on from what they saved")
    if process.returncode or result is None:
        raise UserError(fault or f"the training processes ended with exit code {process.returncode}; the log says why")
    return result


def _stop_with(process: subprocess.Popen[str], stop: Event) -> None:
    """Pass a wish to stop on to a process, for as long as it runs."""
    while process.poll() is None:
        if stop.wait(0.5):
            process.terminate()
            return
