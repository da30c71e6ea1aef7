"""How good a model is on labelled pictures."""

from tinyvit.evaluation.measure import Evaluation, Evaluator, evaluate
from tinyvit.evaluation.pictures import open_pictures
from tinyvit.evaluation.subject import Subject, load_subject

__all__ = [
    "Evaluation",
    "Evaluator",
    "Subject",
    "evaluate",
    "load_subject",
    "open_pictures",
]
