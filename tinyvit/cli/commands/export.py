"""`tinyvit export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinyvit.cli.options import AsJson
from tinyvit.cli.output import show
from tinyvit.export import export_student


def export(
    student: Annotated[Path, typer.Argument(help="a stage's run folder")],
    out: Annotated[Path, typer.Argument(help="the folder to make")],
    onnx: Annotated[bool, typer.Option("--onnx", help="also as ONNX, checked against torch")] = False,
    program: Annotated[bool, typer.Option("--program", help="also as a program of torch.export, checked")] = False,
    as_json: AsJson = False,
) -> None:
    """A finished student as a folder for others: weights, timm configuration, class names, recipe, model card."""
    show(export_student(student, out, onnx, program), as_json, "exported")
