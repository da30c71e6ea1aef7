"""`tinyvit evaluate`: how good a model is at the classes that it was trained for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from tinyvit.cli.options import AsJson, Precision, Workers
from tinyvit.cli.output import show
from tinyvit.data.folders import told
from tinyvit.data.loader import default_workers
from tinyvit.data.location import coco_places
from tinyvit.detection.coco import CocoSet
from tinyvit.detection.draw import draw_found
from tinyvit.detection.folder import is_detector, load_detector
from tinyvit.detection.measure import DetectionEvaluator, detect
from tinyvit.detection.survey import check_set
from tinyvit.errors import UserError
from tinyvit.evaluation import Evaluation, load_eval_model, open_images
from tinyvit.evaluation import evaluate as evaluate_on
from tinyvit.evaluation.corruptions import corruption_error, find_corrupted, open_corrupted, prepared
from tinyvit.evaluation.images import DataSet, with_classes
from tinyvit.evaluation.published import SETS, open_set
from tinyvit.runtime.distributed import World
from tinyvit.runtime.progress import default_progress
from tinyvit.training.model_runner import precision_of

# Images that are drawn, and the score from which on a box is.
DRAWN, LEAST = 8, 0.5


def evaluate(
    model: Annotated[
        str, typer.Argument(help="a stage's run folder, an exported student, or a teacher such as timm:NAME")
    ],
    data: Annotated[str, typer.Option(help="labelled images: shards (a folder, a URL), an image folder or a .csv")],
    published: Annotated[
        str | None,
        typer.Option("--published", metavar="in1k|real|v2|a|r|sketch|c", help="the data is this set, as published"),
    ] = None,
    size: Annotated[int | None, typer.Option(help="pixels a side; default: what the model was built for")] = None,
    crop: Annotated[float | None, typer.Option(help="share of the image's side that is seen; 1: all of it")] = None,
    classes: Annotated[
        str | None,
        typer.Option(help="what the labels mean: a file with a class name a line, in their order, or imagenet-1k"),
    ] = None,
    restrict: Annotated[
        bool,
        typer.Option("--restrict", help="let the network choose among the data's classes only, not all of its own"),
    ] = False,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="leave images out that cannot be decoded, and count them")
    ] = False,
    precision: Precision = "auto",
    batch_size: Annotated[int | None, typer.Option(help="images a forward pass; default: 250, of a detector 8")] = None,
    workers: Workers = None,
    png: Annotated[Path | None, typer.Option(help="of a detector: draw what it finds in some of the images")] = None,
    as_json: AsJson = False,
) -> None:
    """Accuracy, loss, calibration and speed of a student, or of a teacher, on labelled images; of a detector COCO's
    average precision on a folder or annotation file in COCO's format.
    """
    if is_detector(model):
        if published or size or crop or classes or restrict or skip_broken:
            raise UserError(
                f"{model} is a detector: --published, --size, --crop, --classes, --restrict and --skip-broken are for "
                f"classifiers"
            )
        show(_found(Path(model), data, precision, batch_size, workers, png), as_json, model)
        return
    if png:
        raise UserError("--png draws what a detector finds; give one, or leave it out")
    if published and (classes or restrict):
        raise UserError(f"--published {published} has classes of its own; leave --classes and --restrict out")
    # The sets' own protocols tell only their classes apart.
    options = {
        "restrict": restrict or published is not None,
        "skip_broken": skip_broken,
        "batch_size": batch_size or 250,
    }
    result = _classified(model, data, published, classes, size, crop, precision, workers, options)
    if not as_json and "left_out" in result:
        result["left_out"] = told(result["left_out"]) or "nothing"
    show(result, as_json, model)


def _classified(
    model: str,
    data: str,
    published: str | None,
    classes: str | None,
    size: int | None,
    crop: float | None,
    precision: str,
    workers: int | None,
    options: dict[str, Any],
) -> dict[str, Any]:
    """A classifier's figures; `options` are the evaluator's."""
    world, progress = World(), default_progress()
    corrupted = find_corrupted(data) if published == "c" else None
    subject = load_eval_model(model, world.device, size)
    subject = prepared(subject) if corrupted else subject
    subject = replace(subject, crop_pct=crop or subject.crop_pct)
    count = default_workers() if workers is None else workers
    dtype = precision_of(precision, world.device)

    def found_on(sets: Sequence[DataSet], title: str = "evaluate") -> list[Evaluation]:
        return evaluate_on(subject, sets, world, count, dtype, progress, title, **options)

    if corrupted:
        errors = {kind: found_on(open_corrupted(folder, progress), kind) for kind, folder in corrupted.items()}
        return corruption_error(errors) | {"size": subject.size}
    if published:
        of_set = open_set(published, data, progress)
        (found,) = found_on([of_set])
        coverage = f"{found.classes_seen:,} of {len(of_set.classes):,}"
        more = {"set": SETS[published].title, "classes_of_the_set": coverage, "left_out": of_set.left_out}
        return found.as_dict() | more | {"size": subject.size}
    images = with_classes(open_images(data, progress), classes, data)
    (found,) = found_on([images])
    named = subject.classes is not None and images.classes is not None
    matched = "by name" if named else "by number: one side's classes have no names"
    return found.as_dict() | {"matched": matched, "left_out": images.left_out, "size": subject.size}


def _found(
    folder: Path, data: str, precision: str, batch_size: int | None, workers: int | None, png: Path | None
) -> dict[str, Any]:
    """COCO's figures of a detector."""
    train, val = (data, None) if data.endswith(".json") else coco_places(data)
    world, detector = World(), load_detector(folder)
    coco = CocoSet(Path(val or train), detector.decode)
    model, dtype = detector.model.to(world.device).eval(), precision_of(precision, world.device)
    count = default_workers() if workers is None else workers
    progress = default_progress()
    coco = check_set(coco, detector.masks, True, world, count, progress)
    evaluator = DetectionEvaluator(coco, detector.classes, str(folder), world, count, dtype, batch_size=batch_size or 8)
    with progress.task("evaluate", len(coco), "images") as bar:
        figures = evaluator.measure(model, bar)
    if png:
        numbers = list(range(0, len(coco), max(1, len(coco) // DRAWN)))[:DRAWN]
        images = [torch.from_numpy(coco.image(number)).permute(2, 0, 1) for number in numbers]
        detections = [{k: v.cpu() for k, v in a.items()} for a in detect(model, images, world.device, dtype)]
        draw_found(png, coco, detector.classes, numbers, detections, LEAST)
    told = {"annotations": str(coco.annotations), "data": asdict(coco.census)}
    return figures | told | ({"picture": str(png)} if png else {})
