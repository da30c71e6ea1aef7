"""The stages of a recipe: each is one training run, and by its target one that learns a teacher, labels or boxes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tinyvit.config.sections import Augment, Missing, Residual, Section

# What a stage once said, whatever its target: its digest, by which a run is gone on with, is still taken of all of it.
ALWAYS: dict[str, Any] = {
    "label_weight": 0.0,
    "label_smoothing": 0.0,
    "layer_decay": None,
    "top_k": None,
    "stored_epochs": None,
    "missing": "error",
    "residual": "uniform",
    "augment": None,
}


class StageBase(Section):
    """What every stage says: for how long and how fast its network learns."""

    target: str
    epochs: int = Field(ge=1, description="passes over the images")
    batch_size: int = Field(ge=2, description="images a step, on all devices together")
    lr: float = Field(gt=0, description="peak learning rate")
    warmup_lr: float = Field(default=0.0, ge=0, description="learning rate that the warm-up begins with")
    min_lr: float = Field(default=0.0, ge=0, description="learning rate at the end of the cosine")
    lr_base_size: int | None = Field(
        default=None, ge=1, description="batch size that these rates are for: they grow with batch_size; null: as given"
    )
    warmup_epochs: float = Field(default=0.0, ge=0, description="epochs of linear warm-up")
    weight_decay: float = Field(default=0.05, ge=0, description="AdamW weight decay")
    clip_grad: float | None = Field(default=5.0, gt=0, description="largest norm of the gradient")
    ema: float | None = Field(
        default=None, gt=0, lt=1, description="decay of an average of the weights, which is evaluated and kept instead"
    )
    eval_batch_norm: bool = Field(default=False, description="batch norm keeps the statistics that it begins with")
    non_finite: Literal["error", "skip"] = Field(
        default="error", description="a step whose loss or gradient is not finite: stop, or leave it out and count it"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="initial weights, order of images, views of label stages")

    @model_validator(mode="before")
    @classmethod
    def _without_what_is_not(cls, said: Any) -> Any:
        """A stage may say of what it does not have that there is none of it, as its record does."""
        if not isinstance(said, dict):
            return said
        none = {name: value for name, value in (ALWAYS | {"train": None}).items() if name not in cls.model_fields}
        return {name: value for name, value in said.items() if name not in none or value != none[name]}

    @model_validator(mode="after")
    def _long_enough(self) -> StageBase:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs} leaves nothing of epochs {self.epochs}")
        return self

    def record(self) -> dict[str, Any]:
        """All that a stage says and whose digest it has, with what it says nothing of as it once was."""
        return ALWAYS | self.model_dump(mode="json")

    @property
    def layers(self) -> float | None:
        """Factor of the learning rate from a layer to the one below it."""
        return None

    @property
    def lr_scale(self) -> float:
        """What the learning rates are multiplied by."""
        return self.batch_size / self.lr_base_size if self.lr_base_size else 1.0


class ClassStage(StageBase):
    """A stage whose student tells classes apart."""

    layer_decay: float | None = Field(
        default=None, gt=0, le=1, description="factor of the learning rate from a layer to the one below it"
    )

    views_per_read: int = Field(
        default=1, ge=1, description="views, of as many epochs, that an image gives each time it is read and decoded"
    )

    def record(self) -> dict[str, Any]:
        record = super().record()
        if self.views_per_read == 1:
            del record["views_per_read"]
        return record

    @property
    def layers(self) -> float | None:
        return self.layer_decay


class TeacherStage(ClassStage):
    """A stage that learns a teacher's soft targets, on the views that it was asked about."""

    target: Literal["teacher"] = Field(description="learn a teacher's soft targets")
    label_weight: float = Field(default=0.0, ge=0, lt=1, description="share of the loss that labels have")
    top_k: int | None = Field(default=None, ge=1, description="classes of the stored rows to use; null: all")
    stored_epochs: int | None = Field(
        default=None, ge=1, description="stored epochs to learn from, in turn when there are more to train; null: all"
    )
    missing: Missing = Field(
        default="error", description="a view without stored targets: stop, leave it out, or learn its label"
    )
    residual: Residual = Field(default="uniform", description="what becomes of the mass outside the kept classes")

    @property
    def learns_labels(self) -> bool:
        """Whether labels of images are learned beside the teacher."""
        return self.label_weight > 0 or self.missing == "label"


class LabelStage(ClassStage):
    """A stage that learns labels."""

    target: Literal["labels"] = Field(description="learn the labels")
    train: str | None = Field(default=None, description="the labelled shards, where they are not those of data.train")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="share of the target that is spread evenly")
    augment: Augment | None = Field(default=None, description="how views are made; null: as the label section's")

    def record(self) -> dict[str, Any]:
        record = super().record()
        if self.train is None:
            del record["train"]
        return record


class BoxStage(StageBase):
    """A stage that learns to find objects."""

    target: Literal["boxes"] = Field(description="learn to find objects")


Stage = Annotated[TeacherStage | LabelStage | BoxStage, Field(discriminator="target")]
STAGES: dict[str, type[StageBase]] = {"teacher": TeacherStage, "labels": LabelStage, "boxes": BoxStage}
