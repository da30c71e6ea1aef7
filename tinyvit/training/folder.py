"""What a training stage leaves in its folder, and when it may be trusted.

`record.json` says what the stage is, `state.pt` where it stands, `epochs.jsonl` has a line for each epoch that is
done, `result.json` exists once it is finished; `best` holds the student of the best epoch. Each is seen whole or
not at all. Beside them lie the metric_logger's files (training/metric_logger.py).
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch

from logitstore import write_whole
from tinyvit.errors import UserError
from tinyvit.runtime.checkpoint import read_checkpoint
from tinyvit.training.metric_logger import METRICS, read_lines

STATE = "state.pt"
EPOCHS = "epochs.jsonl"
BEST = "best"
RESULT = "result.json"
RECORD = "record.json"


class StageFolder:
    """The folder of the stage that has this digest (of recipe, data, store and the stage before)."""

    def __init__(self, path: Path, digest: str) -> None:
        self.path, self._digest = path, digest

    def read_state(self, device: torch.device) -> dict[str, Any] | None:
        """The last state that was saved; None when there is none. UserError for that of another stage."""
        file = self.path / STATE
        if not file.is_file():
            return None
        state: dict[str, Any] = read_checkpoint(file, device, "remove it to start the stage anew")
        if state["digest"] != self._digest:
            raise UserError(
                f"{self.path} holds a stage of another recipe, store or data set; choose another run folder, "
                f"or remove this one"
            )
        return state

    def write_state(self, state: dict[str, Any]) -> None:
        """Keep the state, then its epochs: a line of them always belongs to a state that was saved."""
        buffer = io.BytesIO()
        torch.save({**state, "digest": self._digest}, buffer)
        write_whole(self.path / STATE, buffer.getvalue())
        lines = "".join(json.dumps(epoch) + "\n" for epoch in state["epochs"])
        write_whole(self.path / EPOCHS, lines.encode())

    def begin(self, record: dict[str, Any]) -> None:
        """Make the folder and say what stage it is for; what an older one left there without a state goes."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not (self.path / STATE).is_file():
            for name in (EPOCHS, METRICS, RESULT):
                (self.path / name).unlink(missing_ok=True)
        write_json(self.path / RECORD, record)

    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Keep the result, which says that the stage is finished, and return it."""
        write_json(self.path / RESULT, {**result, "digest": self._digest})
        return result


def write_json(file: Path, document: dict[str, Any]) -> None:
    """A document for `read_json`, seen whole or not at all."""
    write_whole(file, (json.dumps(document, indent=2) + "\n").encode())


def read_json(folder: Path, name: str) -> dict[str, Any] | None:
    """A document of a folder, such as RESULT or RECORD of a stage's; None when it is not there."""
    file = folder / name
    if not file.is_file():
        return None
    document: dict[str, Any] = json.loads(file.read_text())
    return document


def read_epochs(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a stage's epochs, the first one first; empty when there are none yet."""
    return read_lines(folder / EPOCHS)
