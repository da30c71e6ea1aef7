"""COCO's metrics of a detector (cocodataset.org/#detection-eval), by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from threading import Event
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tinyvit.data.loader import run_streams
from tinyvit.detection.coco import CocoSet, Target
from tinyvit.detection.masks import encoded_mask, pycocotools_mask
from tinyvit.detection.scenes import EvaluationScenes
from tinyvit.runtime.distributed import World
from tinyvit.runtime.progress import Bar

# COCOeval's first figures, in its order.
FIGURES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


class DetectionEvaluator:
    """Measures detectors on one set, `times` times, with the same data processes.

    `classes` are what a detector tells apart, by the set's names; `whose` they are is for a message. UserError where
    the set has others. `stop` as in `run_streams`.
    """

    def __init__(
        self,
        coco: CocoSet,
        classes: Sequence[str],
        whose: str,
        world: World,
        workers: int,
        dtype: torch.dtype,
        times: int = 1,
        batch_size: int = 8,
        stop: Event | None = None,
    ) -> None:
        # Said before anything is trained.
        pycocotools_mask()
        self._ids = coco.category_ids(classes, whose)
        self._coco, self._world, self._dtype = coco, world, dtype
        streams = [EvaluationScenes(coco, batch_size)] * times
        # Every rank sees every image: COCO's metrics are not sums over images.
        self._passes = run_streams(streams, workers, stop=stop)

    @torch.inference_mode()
    def measure(self, model: nn.Module, bar: Bar | None = None) -> dict[str, Any]:
        """In percent the figures of FIGURES, of boxes and, under `masks`, of masks where the model finds them; None
        where the set has nothing of a size, 0 where it has and nothing of it was found.
        """
        training = model.training
        model.eval()
        found: list[dict[str, Any]] = []
        number, masks = 0, False
        for scenes in next(self._passes):
            for detection in detect(model, scenes.images, self._world.device, self._dtype):
                found += self._results(number, detection)
                number, masks = number + 1, "masks" in detection
            if bar:
                bar.advance(len(scenes))
        model.train(training)
        figures: dict[str, Any] = _evaluated(self._coco, found, "bbox")
        if masks:
            figures["masks"] = _evaluated(self._coco, found, "segm")
        return figures | {"images": number}

    def _results(self, number: int, detection: Target) -> list[dict[str, Any]]:
        """What was found in an image, as COCO's result format has it."""
        boxes = detection["boxes"].float().cpu()
        boxes[:, 2:] -= boxes[:, :2]
        image = self._coco.document["images"][number]["id"]
        found = [
            {"image_id": image, "category_id": self._ids[label - 1], "bbox": box, "score": score}
            for box, label, score in zip(
                boxes.tolist(), detection["labels"].tolist(), detection["scores"].tolist(), strict=True
            )
        ]
        if "masks" in detection:
            masks = pycocotools_mask()
            shown = (detection["masks"][:, 0] > 0.5).cpu().numpy().astype(np.uint8)
            for one, pixels in zip(found, shown, strict=True):
                one["segmentation"] = masks.encode(np.asfortranarray(pixels))
        return found


def detect(model: nn.Module, images: Sequence[Tensor], device: torch.device, dtype: torch.dtype) -> list[Target]:
    """What a detector in eval mode finds in images [3, H, W] uint8: boxes, labels, scores, perhaps masks."""
    pixels = [image.to(device, non_blocking=True).float() / 255 for image in images]
    with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        detections: list[Target] = model(pixels)
    return detections


def _told(coco: CocoSet, kind: str) -> list[dict[str, Any]]:
    """The annotations with what pycocotools asks for and the format lets be missing. It takes 0 for no annotation."""
    return [
        {"iscrowd": 0, "area": one["bbox"][2] * one["bbox"][3], **one, "id": number}
        | ({"segmentation": encoded_mask(one, coco.size_of(one))} if kind == "segm" else {})
        for number, one in enumerate(coco.document["annotations"], 1)
    ]


def _evaluated(coco: CocoSet, found: list[dict[str, Any]], kind: str) -> dict[str, float | None]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    # It tells what it does on stdout.
    with contextlib.redirect_stdout(io.StringIO()):
        truth, nothing = COCO(), COCO()
        truth.dataset = {"info": {}, **coco.document, "annotations": _told(coco, kind)}
        truth.createIndex()
        # It writes into what it is given, and takes areas from boxes where there are any.
        given = [{key: value for key, value in one.items() if kind == "bbox" or key != "bbox"} for one in found]
        # It cannot load a result of nothing, but measures one.
        judge = COCOeval(truth, truth.loadRes(given) if given else nothing, kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return {name: None if value < 0 else 100 * float(value) for name, value in zip(FIGURES, judge.stats, strict=False)}
