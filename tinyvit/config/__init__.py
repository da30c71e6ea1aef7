"""What a run is: recipes, their sections and fields, each with its meaning."""

from tinyvit.config.contract import Budget, Contraction, Space
from tinyvit.config.detection import Detection
from tinyvit.config.recipe import Recipe, load_recipe, recipe_names
from tinyvit.config.sections import Augment, Broken, Data, Decode, Engine, Label, Missing, Residual, Stage, Student

__all__ = [
    "Augment",
    "Broken",
    "Budget",
    "Contraction",
    "Data",
    "Decode",
    "Detection",
    "Engine",
    "Label",
    "Missing",
    "Recipe",
    "Residual",
    "Space",
    "Stage",
    "Student",
    "load_recipe",
    "recipe_names",
]
