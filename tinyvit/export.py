"""A finished student as a folder for others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from storage import write_whole
from tinyvit.data.place import Place
from tinyvit.errors import UserError
from tinyvit.stage_folder import RECORD, RESULT, read_json
from tinyvit.students import CONFIG, WEIGHTS, load_student

CARD = """# {architecture}, {classes} classes

Trained with tinyvit, stage `{stage}`, {epochs} epochs, finished {finished}.
{accuracy}
Teacher: {teacher}. Recipe digest: {digest}.

```python
import timm
model = timm.create_model("local-dir:{name}", pretrained=True)
```
"""


def export_student(folder: Path, out: Path) -> dict[str, Any]:
    """Copy weights and configuration of a finished stage, with class names and a model card.

    Loads the copy through plain timm before it says so. UserError for a stage that is not finished, or an
    `out` that is not empty.
    """
    result, record = read_json(folder, RESULT), read_json(folder, RECORD)
    if result is None or record is None:
        raise UserError(f"{folder} is not a finished stage (no {RESULT}); give the folder of one, RUN/STAGE")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty; choose a new folder")
    config = json.loads((folder / CONFIG).read_text())
    out.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS, CONFIG):
        shutil.copyfile(folder / name, out / name)
    names = Place(record["recipe"]["data"]["train"]).class_names() if result["target"] == "labels" else None
    if names:
        write_whole(out / "classes.txt", ("\n".join(names) + "\n").encode())
    val = result["val"]
    card = CARD.format(
        architecture=config["architecture"],
        classes=config["num_classes"],
        stage=result["stage"],
        epochs=result["epochs"],
        finished=result["finished"],
        accuracy=f"Top-1 on {val['images']} validation images: {val['top1']:.1f} %." if val else "Not evaluated.",
        teacher=record["recipe"]["label"]["teacher"],
        digest=record["recipe_digest"],
        name=out.name,
    )
    write_whole(out / "README.md", card.encode())
    model = load_student(out)
    return {"folder": str(out), "parameters": sum(p.numel() for p in model.parameters()), "val": val or {}}
