"""Networks: teachers by name, students of any timm model, their weights and the folder that plain timm loads."""

from tinyvit.models.create import create_student, input_size, mean_std, tuples, weights_of
from tinyvit.models.folder import class_names, decode_of, load_student, save_student
from tinyvit.models.weights import (
    CONFIG,
    WEIGHTS,
    adopt_weights,
    classes_of,
    load_weights,
    timm_config,
)

__all__ = [
    "CONFIG",
    "WEIGHTS",
    "adopt_weights",
    "class_names",
    "classes_of",
    "create_student",
    "decode_of",
    "input_size",
    "load_student",
    "load_weights",
    "mean_std",
    "save_student",
    "timm_config",
    "tuples",
    "weights_of",
]
