"""What is wrong with a recipe, in the words of one who writes recipes: pydantic's are about classes and tags."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

from tinyvit.config.stages import STAGES
from tinyvit.errors import did_you_mean

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def complaint(recipe: type[BaseModel], stages: Iterable[str], fault: ErrorDetails) -> str:
    """Where a recipe with these stages is wrong, what is wrong with it, and perhaps what was meant."""
    place = fault["loc"]
    # Of a stage pydantic names the target too, which is no part of the path.
    in_stage = place[:1] == ("stages",) and len(place) > 2
    where = ".".join(str(part) for part in (place[:2] + place[3:] if in_stage else place)) or "recipe"
    if fault["type"] == "extra_forbidden":
        owner, section = _section(recipe, place[:-1])
        field = str(place[-1])
        # A field of another stage is not misspelt.
        elsewhere = in_stage and any(field in _fields(stage) for stage in STAGES.values())
        remedy = "remove it" if elsewhere else did_you_mean(field, _fields(section), "remove it")
        return f"{where}: {owner} has no field {field}; {remedy}"
    if fault["type"] == "union_tag_not_found":
        # YAML takes a name such as 1 for a number.
        others = [str(name) for name in stages if name != place[1]]
        remedy = did_you_mean(str(place[1]), others, f"give it one of {', '.join(STAGES)}")
        return f"{where}: a stage needs a target; {remedy}"
    if fault["type"] == "union_tag_invalid":
        tag = str(fault["ctx"]["tag"])
        remedy = did_you_mean(tag, STAGES, f"choose one of {', '.join(STAGES)}")
        return f"{where}: there is no target {tag!r}; {remedy}"
    return f"{where}: {fault['msg'].removeprefix('Value error, ')}"


def _section(recipe: type[BaseModel], place: tuple[int | str, ...]) -> tuple[str, type[BaseModel]]:
    """The section at a place, and how it is called."""
    owner, section, inside = "a recipe", recipe, place
    if place[:1] == ("stages",):
        target = str(place[2])
        owner = f"a stage on {'a teacher' if target == 'teacher' else target}"
        section, inside = STAGES[target], place[3:]
    for part in inside:
        kind = _fields(section)[str(part)]
        # Perhaps one that may be left out: Section | None.
        section = next(one for one in (kind, *get_args(kind)) if isinstance(one, type) and issubclass(one, BaseModel))
        owner = str(part)
    return owner, section


def _fields(section: type[BaseModel]) -> dict[str, Any]:
    """The types of a section's fields, by the names that recipes have for them."""
    return {field.alias or name: field.annotation for name, field in section.model_fields.items()}
