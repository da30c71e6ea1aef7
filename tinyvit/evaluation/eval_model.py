"""What is evaluated: a student of ours, or any teacher by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from tinyvit.classes import imagenet_classes
from tinyvit.config import Decode
from tinyvit.errors import UserError
from tinyvit.models import class_names, decode_of, input_size, load_student, mean_std, timm_config
from tinyvit.models.teachers import SOURCES, Teacher, load_teacher, logits_of
from tinyvit.views.images import record_of


@dataclass(frozen=True)
class EvalModel:
    """A network, how its images are prepared, and what its classes are called, where that is known."""

    model: nn.Module
    size: int
    crop_pct: float
    crop_mode: str
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: Sequence[str] | None
    decode: Decode = field(default_factory=Decode)

    @property
    def data_config(self) -> dict[str, Any]:
        """All that decides the pixels which the network is given, JSON-simple."""
        return {
            "size": self.size,
            "crop_pct": self.crop_pct,
            "crop_mode": self.crop_mode,
            "interpolation": self.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
            "decode": record_of(self.decode),
        }

    @classmethod
    def of(cls, model: nn.Module, classes: Sequence[str] | None = None, decode: Decode | None = None) -> EvalModel:
        """A timm model, prepared as its configuration says, of images that are read like this (None: as usual)."""
        config = timm_config(model)
        mean, std = mean_std(model)
        return cls(
            model=model,
            size=input_size(model),
            crop_pct=config["crop_pct"],
            crop_mode=config.get("crop_mode", "center"),
            interpolation=config["interpolation"],
            mean=mean,
            std=std,
            classes=classes,
            decode=decode or Decode(),
        )

    @classmethod
    def of_teacher(cls, teacher: Teacher) -> EvalModel:
        """A teacher, prepared as its configuration says or else as most of timm's are."""
        config = getattr(teacher.model, "pretrained_cfg", None) or {}
        return cls(
            model=teacher.model,
            size=teacher.input_size,
            crop_pct=config.get("crop_pct", 0.875),
            crop_mode=config.get("crop_mode", "center"),
            interpolation=config.get("interpolation", "bicubic"),
            mean=teacher.mean,
            std=teacher.std,
            classes=teacher.classes,
        )


def load_eval_model(name: str, device: torch.device, size: int | None = None) -> EvalModel:
    """A stage's folder or an exported student, or a teacher such as `timm:NAME`, on a device.

    `size` are the pixels a side that it will be shown. UserError where it gives no logits for those.
    """
    if name.partition(":")[0] not in SOURCES:
        model = load_student(Path(name)).to(device)
        if not (count := int(cast(Any, model).num_classes)):
            raise UserError(f"the network in {name} has no classifier; give one that tells classes apart")
        subject = EvalModel.of(model, class_names(model) or imagenet_classes(count), decode_of(Path(name)))
        side = size or subject.size
        logits_of(name, model.eval(), torch.zeros(1, 3, side, side, device=device))
        return replace(subject, size=side)
    teacher = load_teacher(name, device, None, size)
    teacher.try_size(size)
    return replace(EvalModel.of_teacher(teacher), size=size or teacher.input_size)
