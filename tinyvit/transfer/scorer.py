"""All that is measured of one network on one data set; what was measured is kept, so that nothing is done twice."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from logitstore import digest_of
from tinyvit.classes import match_classes, shared_classes
from tinyvit.data.location import train_and_val
from tinyvit.errors import UserError
from tinyvit.evaluation import EvalModel, Evaluation, evaluate, load_eval_model, open_images
from tinyvit.evaluation.corruptions import corruption_error, find_corrupted, open_corrupted, prepared
from tinyvit.evaluation.images import DataSet
from tinyvit.evaluation.published import SETS, find_set, open_set
from tinyvit.models.teachers import weights_digest
from tinyvit.runtime.distributed import World
from tinyvit.runtime.progress import Progress
from tinyvit.training.folder import read_json, write_json
from tinyvit.training.model_runner import precision_of
from tinyvit.transfer.accuracy import Accuracy
from tinyvit.transfer.features import Extractor, Split
from tinyvit.transfer.few_shot import few_shot
from tinyvit.transfer.heads import linear_probe, nearest_neighbours, need_scikit_learn

log = logging.getLogger("tinyvit")

# Figures by name: an Accuracy as a dictionary, and beside it what else is to be known of it.
Figures = dict[str, dict[str, Any]]
SHOTS = (1, 5)
# Changes with what figures mean: older ones are not taken for today's.
FIGURES = 2


def _linear(train: Split, test: Split, seed: int) -> Figures:
    found = linear_probe(train, test, seed)
    return {"linear probe": found.pop("accuracy").as_dict() | found}


def _neighbours(train: Split, test: Split, _seed: int) -> Figures:
    found = nearest_neighbours(train, test)
    return {f"{found['neighbours']}-NN": found["accuracy"].as_dict()}


def _few_shot(_train: Split, test: Split, seed: int) -> Figures:
    found = {shots: few_shot(test, shots, seed) for shots in SHOTS}
    return {
        f"{shots}-shot, {head}": accuracy.as_dict()
        for shots, heads in found.items()
        for head, accuracy in heads.items()
    }


# What is made of frozen features: by the name it is asked for.
HEADS: dict[str, Callable[[Split, Split, int], Figures]] = {
    "linear": _linear,
    "knn": _neighbours,
    "few-shot": _few_shot,
}
MEASURES = ("top-1", *HEADS)


@dataclass(frozen=True)
class Scorer:
    """Measures networks; features and figures are kept in `folder`. `seed` draws validation images and episodes."""

    folder: Path
    seed: int
    world: World
    dtype: torch.dtype
    workers: int
    progress: Progress

    @classmethod
    def here(cls, folder: Path, seed: int, workers: int, progress: Progress, precision: str = "auto") -> Scorer:
        """One that computes on this machine's GPU, or its CPU. UserError for an unknown precision."""
        world = World()
        return cls(folder, seed, world, precision_of(precision, world.device), workers, progress)

    def size(self, checkpoint: str) -> dict[str, Any]:
        """Parameters, multiply-adds an image and input size of a network."""
        subject = load_eval_model(checkpoint, torch.device("cpu"))
        pixels = torch.zeros(1, 3, subject.size, subject.size)
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            subject.model.eval()(pixels)
        return {
            "parameters": sum(p.numel() for p in subject.model.parameters()),
            "macs": counter.get_total_flops() / 2,
            "size": subject.size,
        }

    def transfer(self, checkpoint: str, data: str, measures: Sequence[str]) -> Figures:
        """Some measures of a network on a data set, a place with train and val inside.

        What the data does not allow has a `why` in place of figures. UserError where there is no such data.
        """
        train, val = train_and_val(data)
        if val is None:
            raise UserError(f"{data} needs train and val inside: heads are fitted on one and judged on the other")
        subject = load_eval_model(checkpoint, self.world.device)
        images = {"train": open_images(train, self.progress), "val": open_images(val, self.progress)}
        extractor = Extractor(
            checkpoint, subject, self.folder / "features", self.world.device, self.dtype, self.workers, self.progress
        )

        @cache
        def splits() -> tuple[Split, Split]:
            return self._splits(extractor, data, images["train"], images["val"])

        def judged(measure: str) -> Figures:
            need_scikit_learn()
            train, test = splits()
            log.info("%s: %s of %s", data, measure, checkpoint)
            return HEADS[measure](train, test, self.seed)

        def figures_of(measure: str) -> Figures:
            if measure == "top-1":
                return self._kept(measure, subject, [images["val"]], lambda: self._top1(subject, images["val"], False))
            return self._kept(measure, subject, list(images.values()), partial(judged, measure))

        figures: Figures = {}
        for measure in measures:
            figures |= _or_why(measure, partial(figures_of, measure))
        return figures

    def published(self, checkpoint: str, place: str) -> Figures:
        """Top-1 of a network on each of ImageNet's sets that is found in a folder; why, where it cannot be had."""
        subject = load_eval_model(checkpoint, self.world.device)
        figures: Figures = {}
        for name, about in SETS.items():
            if find_set(name, place) in (None, place) or not shared_classes(subject.classes, about.classes):
                continue
            figures |= _or_why(about.title, partial(self._published, name, subject, place))
        return figures

    def _published(self, name: str, subject: EvalModel, place: str) -> Figures:
        if name == "c":
            return self._corrupted(prepared(subject), place)
        images = open_set(name, place, self.progress)

        def judged() -> Figures:
            (figure,) = self._top1(subject, images, restrict=True).values()
            return {SETS[name].title: figure}

        return self._kept(name, subject, [images], judged)

    def _corrupted(self, subject: EvalModel, place: str) -> Figures:
        severities: dict[str, list[Evaluation]] = {}
        for kind, folder in find_corrupted(place).items():
            sets = open_corrupted(folder, self.progress)
            kept = self._kept(f"c, {kind}", subject, sets, partial(self._by_severity, subject, sets, kind))
            severities[kind] = [Evaluation(**kept[severity]) for severity in kept]
        found = corruption_error(severities)
        right = round(found["top1"] * found["images"] / 100)
        figures = {SETS["c"].title: Accuracy.counted(right, found["images"]).as_dict()}
        if found["mce"] is not None:
            # In percent of AlexNet's errors: no share of images, and without an interval.
            mce = found["mce"]
            figures["ImageNet-C, mCE"] = {"percent": mce, "low": mce, "high": mce, "of": "15 corruptions"}
        return figures

    def _top1(self, subject: EvalModel, images: DataSet, restrict: bool) -> Figures:
        if not shared_classes(subject.classes, images.classes):
            raise UserError("it tells other classes apart")
        (found,) = self._evaluations(subject, [images], "evaluate", restrict)
        figure = Accuracy.counted(round(found.top1 * found.images / 100), found.images).as_dict()
        if restrict:
            assert images.classes
            figure["of"] += f", {found.classes_seen:,} of {len(images.classes):,} classes of the set"
        if found.unknown_images:
            figure["of"] += f", {found.unknown_images:,} of them of classes that it does not have"
        return {"top-1": figure}

    def _by_severity(self, subject: EvalModel, sets: Sequence[DataSet], kind: str) -> Figures:
        found = self._evaluations(subject, sets, kind, restrict=True)
        return {str(severity): one.as_dict() for severity, one in enumerate(found, 1)}

    def _evaluations(self, subject: EvalModel, sets: Sequence[DataSet], title: str, restrict: bool) -> list[Evaluation]:
        return evaluate(subject, sets, self.world, self.workers, self.dtype, self.progress, title, restrict=restrict)

    def _splits(self, extractor: Extractor, data: str, train: DataSet, val: DataSet) -> tuple[Split, Split]:
        """Both parts of a data set, the labels of the second numbered as those of the first."""
        one, two = extractor.split(data, train), extractor.split(data, val)
        if train.classes is None or val.classes is None or train.classes == val.classes:
            return one, two
        numbers = np.array(match_classes(val.classes, train.classes, ("val", "train")), np.int32)
        if (numbers < 0).any():
            raise UserError(f"{data}: the class {val.classes[int(np.argmin(numbers))]!r} is in val, not in train")
        return one, Split(two.features, numbers[two.labels])

    def _kept(
        self, measure: str, subject: EvalModel, sets: Sequence[DataSet], scorer: Callable[[], Figures]
    ) -> Figures:
        """What was found before, else what `scorer` finds now."""
        about = [
            FIGURES, measure, self.seed, str(self.dtype), weights_digest(subject.model), subject.data_config,
            # Names decide which class a label means.
            list(subject.classes or []), [(images.table().digest(), images.classes) for images in sets],
        ]  # fmt: skip
        folder, name = self.folder / "figures", f"{digest_of(about)[:16]}.json"
        if (found := read_json(folder, name)) is None:
            found = scorer()
            write_json(folder / name, found)
        return found


def _or_why(name: str, scorer: Callable[[], Figures]) -> Figures:
    """Figures, or under this name why they cannot be had."""
    try:
        return scorer()
    except UserError as fault:
        return {name: {"why": str(fault)}}
