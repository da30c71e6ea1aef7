"""What training stages have written so far: their metrics, the recipe they are of, whether they are finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyvit.errors import UserError
from tinyvit.training.folder import RECORD, RESULT, read_epochs, read_json
from tinyvit.training.metric_logger import METRICS, read_lines


@dataclass(frozen=True)
class StageRun:
    """A stage by the name it has in legends: lines of metrics every few steps, and of epochs that are done."""

    name: str
    folder: Path
    record: dict[str, Any]
    steps: list[dict[str, Any]]
    epochs: list[dict[str, Any]]
    finished: bool

    @classmethod
    def read(cls, name: str, folder: Path) -> StageRun:
        """From a stage's folder. UserError where there is none."""
        record = read_json(folder, RECORD)
        if record is None:
            raise UserError(f"{folder} is no folder of a training run; give the --run-dir of one, or a stage in it")
        steps, epochs = read_lines(folder / METRICS), read_epochs(folder)
        return cls(name, folder, record, steps, epochs, read_json(folder, RESULT) is not None)

    @property
    def plan(self) -> dict[str, Any]:
        """The stage's section of its recipe."""
        stage: dict[str, Any] = self.record["recipe"]["stages"][self.folder.name]
        return stage

    def over(self, field: str) -> tuple[list[float], list[float]]:
        """A field of the metrics over the images that were seen until then; empty where it was not measured."""
        return _points(self.steps, [line.get(field) for line in self.steps])

    def validated(self, field: str) -> tuple[list[float], list[float]]:
        """A field of the validation after each epoch, over the images that were seen until then."""
        return _points(self.epochs, [(line.get("val") or {}).get(field) for line in self.epochs])


def stage_folders(run: Path) -> list[Path]:
    """The stages of a run folder in the recipe's order, or the folder itself where it is a stage's."""
    if (run / RECORD).is_file():
        return [run]
    found = [file.parent for file in run.glob(f"*/{RECORD}")]
    if not found:
        raise UserError(f"{run} holds no training run; give the --run-dir of one, or a stage in it")
    return sorted(found, key=_number)


def named(folders: Sequence[Path]) -> dict[str, Path]:
    """Names for a legend: the stage's, with as many folders above it as tell them apart."""
    deepest = max(len(folder.resolve().parts) for folder in folders)
    for depth in range(1, deepest):
        names = ["/".join(folder.resolve().parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, folders, strict=True))


def _number(folder: Path) -> tuple[int, str]:
    record = read_json(folder, RECORD) or {}
    order = list(record["recipe"]["stages"])
    return (order.index(folder.name) if folder.name in order else len(order)), folder.name


def _points(lines: Sequence[dict[str, Any]], values: Sequence[float | None]) -> tuple[list[float], list[float]]:
    seen, points = 0.0, []
    for line, value in zip(lines, values, strict=True):
        seen += line["images"]
        if value is not None:
            points.append((seen, float(value)))
    return [x for x, _ in points], [y for _, y in points]
