"""How good a model is on labelled images."""

from tinyvit.evaluation.eval_model import EvalModel, load_eval_model
from tinyvit.evaluation.images import open_images
from tinyvit.evaluation.measure import Evaluation, Evaluator, evaluate

__all__ = [
    "EvalModel",
    "Evaluation",
    "Evaluator",
    "evaluate",
    "load_eval_model",
    "open_images",
]
