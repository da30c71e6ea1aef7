"""A detector in a folder: `model.safetensors`, and `detector.json` with all that is needed to build it again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors.torch import save
from torch import nn

from logitstore import write_whole
from tinyvit.config import Decode, Detection, Student
from tinyvit.detection.model import create_detector
from tinyvit.errors import UserError
from tinyvit.models import WEIGHTS, load_weights
from tinyvit.training.folder import read_json, write_json

DETECTOR = "detector.json"


@dataclass(frozen=True)
class Detector:
    """A network that finds objects, perhaps with their masks, the categories of COCO's format that they are of, and how
    images are read.
    """

    model: nn.Module
    categories: list[dict[str, Any]]
    masks: bool
    decode: Decode

    @property
    def classes(self) -> list[str]:
        """The categories' names."""
        return [str(category["name"]) for category in self.categories]


def is_detector(folder: str | Path) -> bool:
    """Whether a folder holds one."""
    return (Path(folder) / DETECTOR).is_file()


def save_detector(
    folder: Path,
    model: nn.Module,
    student: Student,
    detection: Detection,
    categories: list[dict[str, Any]],
    decode: Decode,
) -> None:
    """Write the two files, each whole."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    write_whole(folder / WEIGHTS, save(state, {"format": "pt"}))
    # Whatever the student's weights began with is in the detector's.
    bare = student.model_copy(update={"checkpoint": None})
    write_json(
        folder / DETECTOR,
        {
            "student": bare.model_dump(mode="json"),
            "detection": detection.model_dump(mode="json"),
            "categories": categories,
            "decode": decode.model_dump(mode="json"),
        },
    )


def load_detector(folder: Path) -> Detector:
    """A detector from its folder. UserError when it is none."""
    try:
        document = read_json(folder, DETECTOR)
        if document is None:
            raise UserError(f"{folder} holds no detector ({DETECTOR}); give the folder of a stage on boxes")
        student = Student.model_validate(document["student"])
        detection = Detection.model_validate(document["detection"])
        categories: list[dict[str, Any]] = document["categories"]
        decode = Decode.model_validate(document.get("decode", {}))
    except (json.JSONDecodeError, KeyError, ValidationError) as fault:
        raise UserError(
            f"{folder / DETECTOR} cannot be read ({str(fault).partition(chr(10))[0]}); restore it"
        ) from fault
    model = create_detector(student, detection, len(categories), seed=0)
    try:
        model.load_state_dict(load_weights(folder))
    except RuntimeError as fault:
        reason = str(fault).splitlines()[1].strip()
        raise UserError(f"the weights in {folder} are of another detector: {reason}") from fault
    return Detector(model, categories, detection.head == "mask_rcnn", decode)
