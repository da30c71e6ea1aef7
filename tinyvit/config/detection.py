"""The section `detection`: what finds objects with a student's features."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tinyvit.config.sections import Section

Pixels = Annotated[int, Field(ge=16)]


class Detection(Section):
    """A detector of torchvision's on a feature pyramid of the student's four stages."""

    head: Literal["faster_rcnn", "mask_rcnn"] = Field(default="faster_rcnn", description="boxes, or masks as well")
    cascade: bool = Field(default=False, description="three box heads in a row, each on the boxes of the one before")
    channels: int = Field(default=256, ge=1, description="of the feature pyramid")
    shorter: Annotated[tuple[Pixels, ...], Field(min_length=1)] = Field(
        default=(800,),
        description="sides that an image's shorter one is resized to: one drawn in training, the last in evaluation",
    )
    longer: Pixels = Field(default=1333, description="the most that its longer side may then have")
    anchors: Annotated[tuple[Pixels, ...], Field(min_length=5, max_length=5)] = Field(
        default=(32, 64, 128, 256, 512), description="sides of the anchors at strides 4, 8, 16, 32 and 64"
    )
    proposals: int = Field(default=1000, ge=1, description="regions of an image that the head looks at")
    samples: int = Field(default=512, ge=2, description="of these, in training, the head learns from so many")
    hflip: float = Field(default=0.5, ge=0, le=1, description="probability of a horizontal flip in training")
