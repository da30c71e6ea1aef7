"""What a run is: recipes, their sections and fields, each with its meaning."""

from tinyvit.config.contract import Budget, Contraction, Space
from tinyvit.config.detection import Detection
from tinyvit.config.recipe import Recipe, load_recipe, recipe_names
from tinyvit.config.sections import Augment, Broken, Data, Decode, Engine, Label, Missing, Residual, Student
from tinyvit.config.stages import BoxStage, ClassStage, LabelStage, Stage, StageBase, TeacherStage

__all__ = [
    "Augment",
    "BoxStage",
    "Broken",
    "Budget",
    "ClassStage",
    "Contraction",
    "Data",
    "Decode",
    "Detection",
    "Engine",
    "Label",
    "LabelStage",
    "Missing",
    "Recipe",
    "Residual",
    "Space",
    "Stage",
    "StageBase",
    "Student",
    "TeacherStage",
    "load_recipe",
    "recipe_names",
]
