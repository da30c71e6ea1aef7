"""Recipes: one validated object a run, from a named YAML file and dotted overrides.

A recipe says what the teacher is shown (`label`), which student learns (`student`) and in which stages
(`stages`), and perhaps how that student is to be scaled down (`contract`) or what detector it is the backbone of
(`detection`). It knows no paths of stores or run
folders: those are arguments of the commands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, model_validator

from logitstore import digest_of
from tinyvit.config.complaint import complaint
from tinyvit.config.contract import Contraction
from tinyvit.config.detection import Detection
from tinyvit.config.sections import Augment, Data, Engine, Label, Section, Student
from tinyvit.config.stages import LabelStage, Stage, StageBase
from tinyvit.errors import UserError, did_you_mean


class Recipe(Section):
    """A whole run."""

    data: Data
    labelling: Label | None = Field(
        default=None, alias="label", description="needed by stages that learn from a teacher"
    )
    student: Student
    stages: Annotated[dict[str, Stage], Field(min_length=1)]
    engine: Engine = Field(default_factory=Engine)
    contraction: Contraction | None = Field(
        default=None,
        alias="contract",
        description="for `tinyvit contract`: to what the student is scaled down, and how",
    )

    detection: Detection | None = Field(
        default=None, description="for stages on boxes: the detector that has the student as its backbone"
    )

    @model_validator(mode="after")
    def _labelled(self) -> Recipe:
        if self.labelling is None and (needy := [n for n, stage in self.stages.items() if stage.target == "teacher"]):
            raise ValueError(f"the stage {needy[0]!r} learns from a teacher: the recipe needs a label section")
        if self.contraction and self.contraction.stage not in self.stages:
            raise ValueError(f"contract.stage is {self.contraction.stage!r}; the stages are {', '.join(self.stages)}")
        if self.contraction and self.stages[self.contraction.stage].target != "teacher":
            raise ValueError(
                f"contract.stage is {self.contraction.stage!r}, which learns labels; name one on a teacher"
            )
        on_boxes = [name for name, stage in self.stages.items() if stage.target == "boxes"]
        if bool(self.detection) != bool(on_boxes) or (on_boxes and len(on_boxes) < len(self.stages)):
            raise ValueError("stages on boxes and the section detection go together, and with no other stages")
        return self

    @property
    def label(self) -> Label:
        """The section on the teacher. UserError where there is none."""
        if self.labelling is None:
            raise UserError("the recipe has no label section: it has no teacher to ask; choose another")
        return self.labelling

    @property
    def contract(self) -> Contraction:
        """The section on contraction. UserError where there is none."""
        if self.contraction is None:
            raise UserError("the recipe has no contract section: it says to what the student is scaled down; add one")
        return self.contraction

    def record(self) -> dict[str, Any]:
        """The resolved recipe, as its file would say it."""
        document: dict[str, Any] = self.model_dump(mode="json", by_alias=True)
        # Recipes without them are as they were before there were these sections, and so are their digests.
        absent = [name for name in ("contract", "detection") if document[name] is None]
        document["data"] = self.data.record()
        document["stages"] = {name: stage.record() for name, stage in self.stages.items()}
        return {name: section for name, section in document.items() if name not in absent}

    def digest(self) -> str:
        """SHA-256 of the resolved recipe."""
        return digest_of(self.record())

    def augment_of(self, stage: StageBase) -> Augment:
        """How the views of a stage are made."""
        own = stage.augment if isinstance(stage, LabelStage) else None
        return own or (self.labelling.augment if self.labelling else Augment())


# A colour that YAML takes for a comment.
UNQUOTED = re.compile(r"^\s*background\s*:\s*#\w+", re.MULTILINE)


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    folder = resources.files("tinyvit") / "recipes"
    return sorted(Path(str(entry)).stem for entry in folder.iterdir() if str(entry).endswith(".yaml"))


def load_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """A recipe by name or by the path of a YAML file, with overrides such as `label.top_k=10`.

    Raises UserError, one line, for an unknown name, a misspelt field or a value that does not fit.
    """
    tree = _read(name, ())
    for override in overrides:
        _override(tree, override)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as fault:
        first = fault.errors()[0]
        stages = tree.get("stages")
        told = complaint(Recipe, stages if isinstance(stages, dict) else {}, first)
        raise UserError(f"recipe {name}: {told}") from fault


def _read(name: str, derived: tuple[str, ...]) -> dict[str, Any]:
    """The tree of a recipe; one with a `base` says only what is different there. `derived` are those that led here."""
    if name in derived:
        raise UserError(f"the recipe {derived[0]} is based on itself: {' -> '.join([*derived, name])}")
    try:
        if name.endswith((".yaml", ".yml")):
            text = Path(name).read_text()
        elif name in recipe_names():
            text = (resources.files("tinyvit") / "recipes" / f"{name}.yaml").read_text()
        else:
            known = recipe_names()
            remedy = did_you_mean(name, known, f"choose one of {', '.join(known)}, or give a .yaml file")
            raise UserError(f"there is no recipe {name!r}; {remedy}")
        tree = yaml.safe_load(text)
        if found := UNQUOTED.search(text):
            raise UserError(f"the recipe {name}: {found.group().strip()} is a comment to YAML; quote it: '#808080'")
    except OSError as fault:
        raise UserError(f"the recipe {name} cannot be read: {fault.strerror}") from fault
    except yaml.YAMLError as fault:
        raise UserError(f"the recipe {name} is not valid YAML: {' '.join(str(fault).split())}") from fault
    if not isinstance(tree, dict):
        raise UserError(f"the recipe {name} is empty; it needs the sections data, student and stages")
    base = tree.pop("base", None)
    if base is None:
        return tree
    path = Path(name).parent / str(base)
    known_as = str(path) if name.endswith((".yaml", ".yml")) and path.is_file() else str(base)
    return _merged(_read(known_as, (*derived, name)), tree)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Sections merge field by field, a value replaces what was there; a section that is null is taken away."""
    merged = dict(base)
    for key, value in changes.items():
        was_section = isinstance(merged.get(key), dict)
        if was_section and value is None:
            del merged[key]
        else:
            merged[key] = _merged(merged[key], value) if was_section and isinstance(value, dict) else value
    return merged


def _override(tree: dict[str, Any], override: str) -> None:
    path, sign, value = override.partition("=")
    if not sign or not path:
        raise UserError(f"the override {override!r} is not of the form section.field=value")
    *parents, last = path.strip().split(".")
    node = tree
    for part in parents:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise UserError(f"the override {override!r}: {part} is a value, not a section")
    try:
        # A colour such as #808080, which YAML would take for a comment.
        node[last] = value.strip() if value.strip().startswith("#") else yaml.safe_load(value)
    except yaml.YAMLError as fault:
        raise UserError(f"the override {override!r} has a value that is not valid YAML") from fault
