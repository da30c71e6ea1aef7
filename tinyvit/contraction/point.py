"""A point of the space: the contraction factors of a hierarchical TinyViT (ECCV 2022, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from timm.models.tiny_vit import TinyVit
from torch import nn

from tinyvit.config import Space, Student
from tinyvit.errors import UserError
from tinyvit.models import create_student


@dataclass(frozen=True)
class Point:
    """Channels and blocks of the four stages, windows of the last three, ratios of MBConv and MLP, channels a head."""

    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    window_sizes: tuple[int, ...]
    expand_ratio: float
    mlp_ratio: float
    head_dim: int

    @classmethod
    def of(cls, student: Student) -> Point:
        """Where a student stands. UserError for one that is no TinyViT, or has heads of several widths."""
        with torch.device("meta"):
            model = create_student(student.model_copy(update={"checkpoint": None}), 1000, 0)
        if not isinstance(model, TinyVit):
            raise UserError(f"{student.name} is no TinyViT, and only its factors are known; choose a tiny_vit student")
        stages = list(cast(Any, model).stages)
        blocks = [list(stage.blocks) for stage in stages]
        dims = tuple(info["num_chs"] for info in cast(Any, model).feature_info)
        heads = {dim // stage[0].num_heads for dim, stage in zip(dims[1:], blocks[1:], strict=True)}
        if len(heads) > 1:
            raise UserError(
                f"the heads of {student.name} have {', '.join(map(str, sorted(heads)))} channels; contraction knows "
                f"one head dimension for all stages: give a num_heads that says so"
            )
        return cls(
            embed_dims=dims,
            depths=tuple(len(stage) for stage in blocks),
            window_sizes=tuple(stage[0].window_size for stage in blocks[1:]),
            expand_ratio=blocks[0][0].conv1.conv.out_channels / dims[0],
            mlp_ratio=float(cast(Any, model).mlp_ratio),
            head_dim=heads.pop(),
        )

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Point:
        """From what JSON keeps of it."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in document.items()}
        return cls(**values)

    @property
    def name(self) -> str:
        """Short, and different for different points."""
        parts = (self.embed_dims, self.depths, self.window_sizes)
        dims, depths, windows = ("-".join(map(str, values)) for values in parts)
        return f"d{dims} n{depths} w{windows} r{self.expand_ratio:g} m{self.mlp_ratio:g} h{self.head_dim}"

    def student(self, like: Student, checkpoint: str | None) -> Student:
        """The student at this point that is otherwise like another one."""
        kwargs = {
            **like.kwargs,
            "embed_dims": list(self.embed_dims),
            "depths": list(self.depths),
            # The first stage has neither heads nor windows, but timm counts them.
            "num_heads": [max(1, dim // self.head_dim) for dim in self.embed_dims],
            "window_sizes": [self.window_sizes[0], *self.window_sizes],
            "mbconv_expand_ratio": self.expand_ratio,
            "mlp_ratio": self.mlp_ratio,
        }
        return like.model_copy(update={"kwargs": kwargs, "checkpoint": checkpoint})

    def build(self, like: Student, num_classes: int, seed: int) -> nn.Module:
        """The network, with fresh weights."""
        return create_student(self.student(like, None), num_classes, seed)

    def within(self, other: Point) -> bool:
        """Whether no factor is larger than the other's."""
        return all(mine <= its for mine, its in zip(self._factors(), other._factors(), strict=True))

    def _factors(self) -> tuple[float, ...]:
        ratios = (self.expand_ratio, self.mlp_ratio, self.head_dim)
        return (*self.embed_dims, *self.depths, *self.window_sizes, *ratios)


def check(point: Point, space: Space) -> None:
    """UserError when a head dimension does not divide the channels, or the space has no step from here."""
    if odd := [dim for dim in point.embed_dims[1:] if dim % point.head_dim]:
        raise UserError(f"a stage of {odd[0]} channels cannot have heads of {point.head_dim}: it is no multiple")
    for head in (head for head in space.head_dims if head < point.head_dim):
        for dim in point.embed_dims[1:]:
            sizes = [dim, *range(dim - space.dim_step, space.smallest_dim - 1, -space.dim_step)]
            if all(size % head for size in sizes):
                raise UserError(
                    f"heads of {head} channels divide no size of the stage of {dim} channels ({dim} to {sizes[-1]} in "
                    f"steps of {space.dim_step}); take {head} out of contract.space.head_dims"
                )
    if not any(True for _ in steps(point, space)):
        raise UserError(f"the space has no step down from {point.name}; widen contract.space")


def steps(point: Point, space: Space) -> Iterator[Point]:
    """The points that one step down of one factor gives, where a head's channels divide those of its stages."""
    for neighbour in _steps(point, space):
        if all(dim % neighbour.head_dim == 0 for dim in neighbour.embed_dims[1:]):
            yield neighbour


def _steps(point: Point, space: Space) -> Iterator[Point]:
    for stage, dim in enumerate(point.embed_dims):
        if (smaller := dim - space.dim_step) >= space.smallest_dim:
            yield replace(point, embed_dims=_with(point.embed_dims, stage, smaller))
    for stage, depth in enumerate(point.depths):
        if depth > space.smallest_depth:
            yield replace(point, depths=_with(point.depths, stage, depth - 1))
    for stage, window in enumerate(point.window_sizes):
        if lower := _lower(space.window_sizes, window):
            yield replace(point, window_sizes=_with(point.window_sizes, stage, int(lower)))
    if lower := _lower(space.expand_ratios, point.expand_ratio):
        yield replace(point, expand_ratio=lower)
    if lower := _lower(space.mlp_ratios, point.mlp_ratio):
        yield replace(point, mlp_ratio=lower)
    if lower := _lower(space.head_dims, point.head_dim):
        yield replace(point, head_dim=int(lower))


def floor(point: Point, space: Space) -> Point:
    """The smallest point that steps lead to; its heads stay as wide as they are, which makes them no slower."""
    while smaller := [step for step in steps(point, space) if step.head_dim == point.head_dim]:
        point = smaller[0]
    return point


def _with(values: tuple[int, ...], place: int, value: int) -> tuple[int, ...]:
    return (*values[:place], value, *values[place + 1 :])


def _lower(values: tuple[float, ...] | tuple[int, ...], present: float) -> float | None:
    return max((value for value in values if value < present), default=None)
