"""How good a model is on labelled pictures."""

from tinyvit.evaluation.eval_model import EvalModel, load_eval_model
from tinyvit.evaluation.measure import Evaluation, Evaluator, evaluate
from tinyvit.evaluation.pictures import open_pictures

__all__ = [
    "EvalModel",
    "Evaluation",
    "Evaluator",
    "evaluate",
    "load_eval_model",
    "open_pictures",
]
