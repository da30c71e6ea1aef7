"""ImageNet-C: 15 corruptions in 5 severities, and their mean error beside AlexNet's (Hendrycks and Dietterich 2019,
arXiv 1903.12261, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from tinyvit.errors import UserError
from tinyvit.evaluation.eval_model import EvalModel
from tinyvit.evaluation.images import DataSet
from tinyvit.evaluation.measure import Evaluation
from tinyvit.evaluation.published import find_set, missing, open_set
from tinyvit.runtime.progress import Progress

# AlexNet's mean errors over the severities, as the authors' code has them (github.com/hendrycks/robustness).
ALEXNET = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
SEVERITIES = range(1, 6)


def find_corrupted(place: str) -> dict[str, Path]:
    """The folder of each corruption at a place, laid out as CORRUPTION/SEVERITY/SYNSET, perhaps in the folders of the
    published archives (blur, digital, noise, weather). UserError where there are none, and where a severity is lacking.
    """
    root = Path(find_set("c", place) or place)
    folders = {kind: found[0] for kind in ALEXNET if (found := sorted([*root.glob(kind), *root.glob(f"*/{kind}")]))}
    if not folders:
        raise UserError(missing("c", place))
    for folder in folders.values():
        if lacking := [severity for severity in SEVERITIES if not (folder / str(severity)).is_dir()]:
            raise UserError(f"{folder} lacks the severity {lacking[0]}; unpack the whole archive")
    return folders


def open_corrupted(folder: Path, progress: Progress) -> list[DataSet]:
    """The sets of one corruption, by severity: a quarter of a million images, so one corruption after the other."""
    return [open_set("c", str(folder / str(severity)), progress) for severity in SEVERITIES]


def prepared(subject: EvalModel) -> EvalModel:
    """How the published images are prepared: they are crops of 224 pixels already, and all of it is seen."""
    return replace(subject, crop_pct=1.0)


def corruption_error(found: Mapping[str, Sequence[Evaluation]]) -> dict[str, Any]:
    """Of what was found of each corruption by severity, in percent: `mce`, which is None unless all corruptions are
    there; `top1` over all of them; of each corruption its error and that divided by AlexNet's.
    """
    errors = {kind: mean(100 - one.top1 for one in severities) for kind, severities in found.items()}
    relative = {kind: error / ALEXNET[kind] for kind, error in errors.items()}
    return {
        "mce": mean(relative.values()) if len(relative) == len(ALEXNET) else None,
        "top1": 100 - mean(errors.values()),
        "images": sum(one.images for severities in found.values() for one in severities),
        "missing": [kind for kind in ALEXNET if kind not in errors],
        "error": errors,
        "relative_to_alexnet": relative,
    }
