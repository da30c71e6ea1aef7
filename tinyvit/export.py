"""A finished student as a folder for others: weights, how to make it again, and forms that need no Python model."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from logitstore import write_whole
from tinyvit.classes import class_list
from tinyvit.errors import UserError
from tinyvit.models.create import input_size
from tinyvit.models.folder import load_student
from tinyvit.models.weights import CONFIG, WEIGHTS, timm_config
from tinyvit.training.folder import RECORD, RESULT, read_json

ONNX = "model.onnx"
PROGRAM = "model.pt2"
# The largest difference of a logit, as a share of the largest logit, that another runtime's sums may make.
TOLERANCE = 1e-3

CARD = """# {architecture}, {classes} classes

Trained with tinyvit, stage `{stage}` on {data}, {epochs} epochs, finished {finished}.
{accuracy}

| | |
| --- | --- |
| learned from | {source} |
| logit store | {store} |
| recipe | `recipe.yaml`, SHA-256 {digest} |
| images read with | {images} |
| input | [N, 3, {size}, {size}] float32, pixels 0..1 less mean {mean}, divided by {std} |
| libraries | {libraries} |

```python
import timm
model = timm.create_model("local-dir:{name}", pretrained=True)
```
"""


def export_student(folder: Path, out: Path, onnx: bool = False, program: bool = False) -> dict[str, Any]:
    """Copy weights and configuration of a finished stage, with class names, recipe and a model card.

    `onnx` adds an ONNX file, `program` one of torch.export; both take any number of images. Whatever was written is
    loaded again, the weights by plain timm, and compared before this says so. UserError for a stage that is not
    finished, an `out` that is not empty, or a form that computes something else.
    """
    result, record = read_json(folder, RESULT), read_json(folder, RECORD)
    if result is None or record is None:
        raise UserError(f"{folder} is not a finished stage (no {RESULT}); give the folder of one, RUN/STAGE")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty; choose a new folder")
    out.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS, CONFIG):
        shutil.copyfile(folder / name, out / name)
    model = load_student(out).eval()
    config = json.loads((out / CONFIG).read_text())
    if names := config.get("label_names"):
        write_whole(out / "classes.txt", class_list(names))
    write_whole(out / "recipe.yaml", yaml.safe_dump(record["recipe"], sort_keys=False).encode())
    write_whole(out / "README.md", _card(model, config, result, record, out.name).encode())
    differences = {}
    if onnx:
        differences["onnx"] = _to_onnx(model, out / ONNX)
    if program:
        differences["program"] = _to_program(model, out / PROGRAM)
    return {
        "folder": str(out),
        "parameters": sum(p.numel() for p in model.parameters()),
        "files": sorted(file.name for file in out.iterdir()),
        "largest_difference": differences,
        "val": result["val"] or {},
    }


def _card(model: nn.Module, config: dict[str, Any], result: dict[str, Any], record: dict[str, Any], name: str) -> str:
    val, timm_says = result["val"], timm_config(model)
    recipe = record["recipe"]
    teacher = record["online_teacher"] or (recipe["label"] or {}).get("teacher", "")
    return CARD.format(
        architecture=config["architecture"],
        classes=config["num_classes"],
        stage=result["stage"],
        data=recipe["data"]["train"],
        epochs=result["epochs"],
        finished=result["finished"],
        accuracy=f"Top-1 on {val['images']} validation images: {val['top1']:.1f} %." if val else "Not evaluated.",
        source=f"the logits of {teacher}" if result["target"] == "teacher" else "labels",
        store=f"{record['store']}, SHA-256 of its specification {record['store_digest']}"
        if record["store"]
        else "none",
        digest=record["recipe_digest"],
        images=", ".join(f"{name} {value}" for name, value in config.get("decode", {}).items()) or "not recorded",
        size=input_size(model),
        mean=list(timm_says["mean"]),
        std=list(timm_says["std"]),
        libraries=", ".join(f"{library} {version}" for library, version in record["libraries"].items()),
        name=name,
    )


def _to_onnx(model: nn.Module, file: Path) -> float:
    """Write and check; returns the largest difference of a logit."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401, torch's exporter wants it
    except ImportError as fault:
        raise UserError(f"ONNX needs the package {fault.name}: pip install 'tinyvit-distill[export]'") from fault
    # The exporter reports its progress and every operator it does not know of.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (_pixels(model, 2),), str(file), input_names=["pixels"], output_names=["logits"], dynamo=True,
            dynamic_shapes=(_ANY_NUMBER,), external_data=False, verbose=False,
        )  # fmt: skip
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return _compared(model, file, lambda pixels: torch.from_numpy(session.run(None, {"pixels": pixels.numpy()})[0]))


def _to_program(model: nn.Module, file: Path) -> float:
    """Write and check; returns the largest difference of a logit."""
    torch.export.save(torch.export.export(model, (_pixels(model, 2),), dynamic_shapes=(_ANY_NUMBER,)), file)
    return _compared(model, file, torch.export.load(file).module())


# Of the first dimension.
_ANY_NUMBER = {0: torch.export.Dim("images", min=1, max=4096)}


def _compared(model: nn.Module, file: Path, run: Any) -> float:
    """The largest difference between what the model and its exported form say of other images than it was made with."""
    pixels = _pixels(model, 3)
    with torch.inference_mode():
        wanted = model(pixels)
        difference = float((run(pixels) - wanted).abs().max())
    if difference > TOLERANCE * float(wanted.abs().max()):
        file.unlink()
        raise UserError(f"the exported {file.name} computes something else (by {difference:.3g}); it was not kept")
    return difference


def _pixels(model: nn.Module, images: int) -> Tensor:
    size = input_size(model)
    return torch.randn(images, 3, size, size, generator=torch.Generator().manual_seed(images))
