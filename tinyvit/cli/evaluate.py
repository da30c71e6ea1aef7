"""`tinyvit evaluate`: how good a model is at the classes that it was trained for."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyvit.cli.options import AsJson, Precision, Workers
from tinyvit.cli.output import show
from tinyvit.errors import UserError


def evaluate(
    model: Annotated[
        str, typer.Argument(help="a stage's run folder, an exported student, or a teacher such as timm:NAME")
    ],
    data: Annotated[str, typer.Option(help="labelled pictures: shards (a folder, a URL), an image folder or a .csv")],
    published: Annotated[
        str | None,
        typer.Option("--set", metavar="in1k|real|v2|a|r|sketch|c", help="the data is this set, as it is published"),
    ] = None,
    size: Annotated[int | None, typer.Option(help="pixels a side; default: what the model was built for")] = None,
    crop: Annotated[float | None, typer.Option(help="share of the picture's side that is seen; 1: all of it")] = None,
    classes: Annotated[
        str | None, typer.Option(help="the data's class names: a file, a line each, or imagenet-1k")
    ] = None,
    precision: Precision = "auto",
    batch_size: Annotated[
        int | None, typer.Option(help="pictures a forward pass; default: 250, of a detector 8")
    ] = None,
    workers: Workers = None,
    png: Annotated[Path | None, typer.Option(help="of a detector: draw what it finds in some of the pictures")] = None,
    as_json: AsJson = False,
) -> None:
    """Accuracy, loss, calibration and speed of a student, or of a teacher, on labelled pictures; of a detector COCO's
    average precision on a folder or annotation file in COCO's format.
    """
    from tinyvit.classes import named_classes
    from tinyvit.data.loader import default_workers
    from tinyvit.detection.folder import is_detector
    from tinyvit.evaluation import Evaluation, load_subject, open_pictures
    from tinyvit.evaluation import evaluate as evaluate_on
    from tinyvit.evaluation.corruptions import corruption_error, find_corrupted, open_corrupted, prepared
    from tinyvit.evaluation.pictures import DataSet
    from tinyvit.evaluation.published import open_set
    from tinyvit.progress import default_progress
    from tinyvit.training.network import precision_of
    from tinyvit.world import World

    if is_detector(model):
        if published or size or crop or classes:
            raise UserError(f"{model} is a detector: --set, --size, --crop and --classes are for classifiers")
        show(_found(Path(model), data, precision, batch_size, workers, png), as_json, model)
        return
    if png:
        raise UserError("--png draws what a detector finds; give one, or leave it out")
    if published and classes:
        raise UserError(f"--set {published} has classes of its own; leave --classes out")
    world, progress = World(), default_progress()
    corrupted = find_corrupted(data) if published == "c" else None
    subject = load_subject(model, world.device, size)
    subject = prepared(subject) if corrupted else subject
    subject = replace(subject, crop_pct=crop or subject.crop_pct)
    count = default_workers() if workers is None else workers
    dtype = precision_of(precision, world.device)
    names = named_classes(classes) if classes else None

    def found_on(sets: list[DataSet], title: str) -> list[Evaluation]:
        return evaluate_on(subject, sets, world, count, dtype, progress, title, names, batch_size or 250)

    if corrupted:
        result = corruption_error(
            {kind: found_on(open_corrupted(folder, progress), kind) for kind, folder in corrupted.items()}
        )
    else:
        pictures = open_set(published, data, progress) if published else open_pictures(data, progress)
        result = found_on([pictures], "evaluate")[0].as_dict()
    show(result | {"size": subject.size}, as_json, model)


# Pictures that are drawn, and the score from which on a box is.
DRAWN, LEAST = 8, 0.5


def _found(
    folder: Path, data: str, precision: str, batch_size: int | None, workers: int | None, png: Path | None
) -> dict[str, Any]:
    """COCO's figures of a detector."""
    import torch

    from tinyvit.data.loader import default_workers
    from tinyvit.data.place import coco_places
    from tinyvit.detection.coco import CocoSet
    from tinyvit.detection.folder import load_detector
    from tinyvit.detection.measure import DetectionEvaluator, detect
    from tinyvit.detection.picture import draw_found
    from tinyvit.progress import default_progress
    from tinyvit.training.network import precision_of
    from tinyvit.world import World

    train, val = (data, None) if data.endswith(".json") else coco_places(data)
    coco, world, detector = CocoSet(Path(val or train)), World(), load_detector(folder)
    model, dtype = detector.model.to(world.device).eval(), precision_of(precision, world.device)
    count = default_workers() if workers is None else workers
    evaluator = DetectionEvaluator(coco, detector.classes, str(folder), world, count, dtype, batch_size=batch_size or 8)
    if detector.masks:
        coco.refuse_missing_masks(measured=True)
    with default_progress().task("evaluate", len(coco), "pictures") as bar:
        figures = evaluator.measure(model, bar)
    if png:
        numbers = list(range(0, len(coco), max(1, len(coco) // DRAWN)))[:DRAWN]
        pictures = [torch.from_numpy(coco.picture(number)).permute(2, 0, 1) for number in numbers]
        answers = [{k: v.cpu() for k, v in a.items()} for a in detect(model, pictures, world.device, dtype)]
        draw_found(png, coco, detector.classes, numbers, answers, LEAST)
    told = {"annotations": str(coco.annotations), "data": asdict(coco.census)}
    return figures | told | ({"picture": str(png)} if png else {})
