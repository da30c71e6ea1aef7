"""Simple classifiers on frozen features: a linear probe and nearest neighbours, both scikit-learn's."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyvit.errors import UserError
from tinyvit.transfer.accuracy import Accuracy
from tinyvit.transfer.features import Split

# The inverse strengths of the L2 penalty that are tried, in scikit-learn's sense; more on the side where the best is
# the last one, as far as LIMITS.
STRENGTHS = tuple(10.0**k for k in range(-4, 2))
LIMITS = (1e-8, 1e6)
# Of the training images, to choose the strength by.
VALIDATION = 0.2
ITERATIONS = 1000
# The neighbours of an image and the temperature of their votes, as in DINO (arXiv 2104.14294, section 4.1).
NEIGHBOURS, TEMPERATURE = 20, 0.07


def need_scikit_learn() -> None:
    """UserError where it is not installed."""
    try:
        import sklearn  # noqa: F401
    except ImportError as fault:
        raise UserError("probing needs scikit-learn: pip install 'tinyvit-distill[transfer]'") from fault


def linear_probe(train: Split, test: Split, seed: int) -> dict[str, Any]:
    """Multinomial logistic regression (L-BFGS) on standardised features.

    The strength of the penalty is chosen on a stratified fifth of the training images, drawn by the seed, the
    stronger one where two are as good; then all of them are fitted. Returns `accuracy`, the chosen `strength`, and the
    `sweep` as pairs of strength and accuracy in percent.
    """
    from sklearn.model_selection import train_test_split

    labels = train.labels
    counts = np.bincount(labels)
    if (counts[counts > 0] < 2).any():
        raise UserError("a class has a single training image; a linear probe needs one to fit and one to choose by")
    share = max(VALIDATION, np.count_nonzero(counts) / len(labels))
    fit, held = train_test_split(np.arange(len(labels)), test_size=share, random_state=seed, stratify=labels)
    tried: dict[float, float] = {}

    def score(strength: float) -> None:
        if strength not in tried:
            fitted = fitted_probe(train.features[fit], labels[fit], strength)
            tried[strength] = 100 * float(fitted.score(train.features[held], labels[held]))

    for strength in STRENGTHS:
        score(strength)
    while True:
        best = min(tried, key=lambda strength: (-tried[strength], strength))
        beyond = best / 10 if best == min(tried) else best * 10 if best == max(tried) else best
        if beyond == best or not LIMITS[0] <= beyond <= LIMITS[1]:
            break
        score(beyond)
    right = fitted_probe(train.features, labels, best).predict(test.features) == test.labels
    return {
        "accuracy": Accuracy.counted(int(right.sum()), len(right)),
        "strength": best,
        "sweep": sorted(tried.items()),
    }


def fitted_probe(features: NDArray[np.float32], labels: NDArray[np.int32], strength: float) -> Any:
    """The classifier of a linear probe."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    with warnings.catch_warnings():
        # A weak penalty on classes that can be told apart has no optimum nearby; validation decides about it.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=ITERATIONS)).fit(
            features, labels
        )


def nearest_neighbours(train: Split, test: Split) -> dict[str, Any]:
    """Votes of the nearest training images by the cosine of features, each of the weight exp(cosine / 0.07)."""
    from sklearn.neighbors import KNeighborsClassifier

    neighbours = min(NEIGHBOURS, len(train.labels))
    # Between directions, distance d and cosine say the same: cosine = 1 - d^2 / 2.
    votes = KNeighborsClassifier(
        neighbours, weights=lambda d: np.exp((1 - d**2 / 2) / TEMPERATURE), algorithm="brute", metric="euclidean"
    ).fit(directions(train.features), train.labels)
    right = votes.predict(directions(test.features)) == test.labels
    return {"accuracy": Accuracy.counted(int(right.sum()), len(right)), "neighbours": neighbours}


def directions(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features [N, C] of length 1."""
    unit: NDArray[np.float32] = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return unit
