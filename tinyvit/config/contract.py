"""The section `contract`: how a large student is scaled down under a budget (TinyViT, ECCV 2022, section 3.2)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from tinyvit.config.sections import Section

Factors = Annotated[tuple[float, ...], Field(min_length=1)]
Sizes = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]


class Budget(Section):
    """What the found student may cost. Whatever is left out is not bounded."""

    parameters: float | None = Field(default=None, gt=0, description="at most so many, such as 5.4e+6")
    macs: float | None = Field(default=None, gt=0, description="at most so many multiply-adds an image")
    throughput: float | None = Field(default=None, gt=0, description="at least so many times the first student's")
    latency_ms: float | None = Field(default=None, gt=0, description="at most, for a single image")
    memory_mib: float | None = Field(default=None, gt=0, description="at most, for tensors of a forward pass")

    @model_validator(mode="after")
    def _bounds_something(self) -> Budget:
        if not self.bounds:
            raise ValueError("it bounds nothing; give parameters, macs, throughput, latency_ms or memory_mib")
        return self

    @property
    def bounds(self) -> dict[str, float]:
        """Those that are given, by name."""
        return {name: value for name, value in self if value is not None}


class Space(Section):
    """The steps that one factor may take at a time: down to the next of its values, or by its step."""

    dim_step: int = Field(default=32, ge=1, description="channels less in a stage")
    smallest_dim: int = Field(default=32, ge=1, description="channels that every stage keeps")
    smallest_depth: int = Field(default=1, ge=1, description="blocks that every stage keeps")
    window_sizes: Sizes = Field(default=(4, 7, 14), description="sides of the windows of the last three stages")
    expand_ratios: Factors = Field(default=(2, 3, 4), description="of the MBConv blocks in the first stage")
    mlp_ratios: Factors = Field(default=(2, 3, 4), description="of the MLPs in the last three stages")
    head_dims: Sizes = Field(default=(16, 32), description="channels of an attention head")


class Contraction(Section):
    """Progressive contraction: from the best student so far to the best of its smaller neighbours, until it fits."""

    budget: Budget
    stage: str = Field(description="the stage, on a teacher's logits, whose settings candidates are trained with")
    space: Space = Field(default_factory=Space)
    tighten: float = Field(
        default=0.8, gt=0, lt=1, description="what a round leaves of the cost that is farthest from the budget, at most"
    )
    reach: int = Field(
        default=3, ge=1, description="steps from a student to a neighbour; more where none of these will do"
    )
    candidates: int = Field(default=6, ge=1, description="neighbours that are trained in a round, drawn by the seed")
    measured: int = Field(default=24, ge=1, description="networks whose speed is measured in a round, at most")
    epochs: int = Field(default=1, ge=1, description="each candidate is trained for so many")
    seed_epochs: int = Field(default=1, ge=1, description="the first student, from which all descend, for so many")
    share: float = Field(default=0.1, gt=0, lt=1, description="of the shards, which candidates are trained on")
    held_out: float = Field(default=0.01, gt=0, lt=1, description="of the shards, which candidates are scored on")
    held_out_epochs: int = Field(default=1, ge=1, description="stored epochs whose views of those shards are scored")
    inherit: bool = Field(default=True, description="candidates begin with what fits of the weights they descend from")
    classes: int | None = Field(
        default=None, ge=1, description="of the classifier that costs are counted with; null: the teacher's"
    )
    device: str | None = Field(
        default=None, description="where speed is measured, such as cpu; null: where it is trained"
    )
    batch_size: int = Field(default=64, ge=1, description="images in a forward pass that is timed")
    repeats: int = Field(
        default=10, ge=1, description="timed pairs of passes, more where they differ; their median counts"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="draws shards, neighbours and initial weights")

    @model_validator(mode="after")
    def _consistent(self) -> Contraction:
        if self.share + self.held_out > 1:
            raise ValueError(f"share {self.share:g} and held_out {self.held_out:g} are more than all shards together")
        return self
