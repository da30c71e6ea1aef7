"""Sources of soft targets: a store of them, or a teacher that is asked as it goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from logitstore import LogitStore, Unit, digest_of
from tinyvit.config import Label
from tinyvit.data.batch import Batch
from tinyvit.data.training_views import Replayed
from tinyvit.errors import UserError
from tinyvit.models.teachers import Teacher
from tinyvit.targets.signal import TeacherSignal, valid_logits


@dataclass(frozen=True)
class StoredSignals:
    """What a teacher said of views that are made again."""

    store: LogitStore
    view_size: None = None

    @property
    def location(self) -> str:
        return self.store.location

    @property
    def num_classes(self) -> int:
        return self.store.spec.num_classes

    @property
    def class_names(self) -> tuple[str, ...] | None:
        names = self.store.class_names
        return tuple(names) if names else None

    @property
    def epochs(self) -> int:
        return self.store.spec.epochs

    @property
    def units(self) -> int:
        return len(self.store.units())

    def identity(self) -> dict[str, Any]:
        return self.store.spec.to_attributes()

    def record(self) -> dict[str, Any]:
        return {"store": self.store.location, "store_digest": digest_of(self.identity()), "online_teacher": None}

    def absent(self) -> frozenset[Unit]:
        return frozenset() if self.store.sealed else frozenset(self.store.missing())

    def replayed(self, epoch: int, absent: frozenset[Unit]) -> Replayed:
        spec = self.store.spec
        block = epoch // spec.epochs_per_unit
        return Replayed(
            epoch, spec.run_seed, self.store.location, frozenset(unit.shard for unit in absent if unit.block == block)
        )

    def signal(self, batch: Batch, device: torch.device) -> TeacherSignal:
        assert batch.signal
        return batch.signal.to(device)

    def try_teacher(self) -> None:
        """There is none."""


@dataclass(frozen=True)
class LiveSignals:
    """What a teacher says of views as they are made: of the same ones, and of each view the same classes, as a store
    of the recipe's section `label` would have.
    """

    teacher: Teacher
    label: Label
    location: None = None

    @property
    def num_classes(self) -> int:
        return self.teacher.num_classes

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return tuple(self.teacher.classes) if self.teacher.classes else None

    @property
    def epochs(self) -> int:
        return self.label.epochs

    @property
    def view_size(self) -> int:
        return self.label.input_size or self.teacher.input_size

    @property
    def units(self) -> int:
        return 0

    def identity(self) -> dict[str, Any]:
        return {"online": self.teacher.record(self.view_size)}

    def record(self) -> dict[str, Any]:
        return {"store": None, "store_digest": None, "online_teacher": self.teacher.name}

    def absent(self) -> frozenset[Unit]:
        return frozenset()

    def replayed(self, epoch: int, absent: frozenset[Unit]) -> Replayed:
        return Replayed(epoch, self.label.seed, None)

    def signal(self, batch: Batch, device: torch.device) -> TeacherSignal:
        assert batch.teacher_views is not None
        logits, label = self.teacher.logits(batch.teacher_views), self.label
        if wrong := int((~valid_logits(logits)).sum()):
            raise UserError(
                f"what the teacher {self.teacher.name} says of {wrong} of {len(logits)} views is NaN or infinite; look "
                f"at its weights, its mean and std, and its precision"
            )
        return TeacherSignal.selected(logits, label.select, label.top_k, label.mass, batch.seeds)

    def try_teacher(self) -> None:
        self.teacher.try_size(self.label.input_size)
