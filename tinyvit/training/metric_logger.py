"""Where metrics go: a line of JSON and TensorBoard every so many steps, and Weights & Biases where it is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from logitstore import digest_of, write_whole
from tinyvit.runtime.foreign import foreign
from tinyvit.runtime.wandb import import_wandb

METRICS = "metrics.jsonl"


class MetricLogger:
    """The metrics of a stage under way, in its folder. A resumed one forgets what came after the saved step."""

    def __init__(self, folder: Path, name: str, step: int, wandb: str | None, config: dict[str, Any]) -> None:
        self._file = folder / METRICS
        kept = [line for line in read_lines(self._file) if line["step"] <= step]
        write_whole(self._file, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self._wandb = _start_wandb(folder, name, wandb, config) if wandb else None

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        """Metrics of the steps up to `step`, counted through all epochs."""
        with self._file.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        self.plot(step, metrics)

    def plot(self, step: int, metrics: dict[str, Any]) -> None:
        """For TensorBoard and Weights & Biases only."""
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)
        self._board.flush()
        if self._wandb:
            self._wandb.log(metrics, step=step)

    def close(self) -> None:
        """Everything is written."""
        self._board.close()
        if self._wandb:
            self._wandb.finish()


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The lines of a file that is being written to: one without an end is left out."""
    text = file.read_text() if file.is_file() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _start_wandb(folder: Path, name: str, project: str, config: dict[str, Any]) -> Any:
    # The same id again: a resumed stage goes on in its own curve.
    curve = digest_of(str(folder.resolve()))[:16]
    wandb = import_wandb()
    with foreign("Weights & Biases cannot be written to", "run wandb login first, or leave --wandb out"):
        return wandb.init(project=project, name=name, id=curve, resume="allow", config=config, dir=str(folder))
