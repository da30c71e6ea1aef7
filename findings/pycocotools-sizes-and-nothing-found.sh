#!/usr/bin/env bash
# pycocotools 2.0.11 measures detections against annotations. With valid files:
#
# - Masks of another size than the annotation's are compared without a word: their IoU is -1, the AP of masks 0. So it is
#   for every picture that was turned (EXIF) after it was annotated, or annotated after it was turned; boxes do not tell,
#   for they carry no size.
# - Run lengths with the sides of their size turned are taken, for the product is the same: the mask is another one.
# - A result of no detections cannot be loaded (COCO.loadRes([]): IndexError), although an empty COCO can be measured and
#   has an AP of 0. A detector that finds nothing needs a case of its own.
#
# Seen: IoU of a mask with itself 1.0, with itself turned -1.0; AP of masks 1.0 and 0.0
#       of a column of 90 pixels in turned sides: (40, 30), rows 0 to 39, columns 1 to 3
#       loadRes([]): IndexError; AP of an empty COCO 0.0
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" -q install pycocotools==2.0.11 numpy==2.4.6
"$place/venv/bin/python" - <<'PYTHON'
import contextlib
import io

import numpy as np
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def encoded(pixels):
    return mask.encode(np.asfortranarray(pixels))


def precision(found):
    """AP of masks of a set of one picture of 40 x 30 with one object."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        one = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 500, "bbox": [5, 5, 25, 20],
               "segmentation": encoded(square)}
        truth.dataset = {"info": {}, "images": [{"id": 1, "width": 40, "height": 30}], "annotations": [one],
                         "categories": [{"id": 1, "name": "square"}]}
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(found) if found is not None else COCO(), "segm")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return float(judge.stats[0])


square = np.zeros((30, 40), np.uint8)
square[5:25, 5:30] = 1
turned = encoded(np.rot90(square))
ious = [float(mask.iou([other], [encoded(square)], [0])[0, 0]) for other in (encoded(square), turned)]
result = [[{"image_id": 1, "category_id": 1, "score": 1.0, "segmentation": other}] for other in (encoded(square), turned)]
precisions = [round(precision(found), 3) for found in result]
print(f"IoU of a mask with itself {ious[0]}, with itself turned {ious[1]}; AP of masks {precisions[0]} and {precisions[1]}")
other = mask.decode(mask.frPyObjects({"size": [40, 30], "counts": [60, 90, 1050]}, 30, 40))
rows, columns = (np.flatnonzero(other.any(axis=axis)) for axis in (1, 0))
there = f"rows {rows[0]} to {rows[-1]}, columns {columns[0]} to {columns[-1]}"
print(f"of a column of {other.sum()} pixels in turned sides: {other.shape}, {there}")
try:
    precision([])
except IndexError as fault:
    loaded = type(fault).__name__
else:
    loaded = "loaded"
print(f"loadRes([]): {loaded}; AP of an empty COCO {precision(None)}")
assert ious == [1.0, -1.0], ious
assert precisions == [1.0, 0.0], precisions
assert other.shape == (40, 30) and len(rows) == 40 and len(columns) == 3
assert loaded == "IndexError" and precision(None) == 0.0
PYTHON
