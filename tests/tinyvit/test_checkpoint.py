"""Files that are no checkpoints are refused in one line wherever one is read, whatever they hold."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest
import torch

from tinyvit.checkpoint import read_checkpoint
from tinyvit.errors import UserError
from tinyvit.students.released import import_released
from tinyvit.teachers import load_teacher
from tinyvit.training.folder import STATE, StageFolder

CPU = torch.device("cpu")


def saved() -> bytes:
    content = io.BytesIO()
    torch.save({"model": {"weight": torch.arange(100.0)}}, content)
    return content.getvalue()


@pytest.mark.parametrize(
    "content", [b"", b"hello\n", b"\x80\x02", b"PK\x03\x04 and then", saved()[:700], saved()[700:]]
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / STATE
    file.write_bytes(content)
    for read in (
        lambda: import_released(file, tmp_path / "out"),
        lambda: StageFolder(tmp_path, "digest").read_state(CPU),
        lambda: load_teacher(f"timm:resnet18@{file}", CPU, None),
    ):
        with pytest.raises(UserError, match="is no checkpoint that can be read safely") as caught:
            read()
        assert "\n" not in str(caught.value)


def test_random_damage_is_refused_in_one_line_or_harmless(tmp_path: Path) -> None:
    rng, whole, file = random.Random(0), saved(), tmp_path / "x.pt"
    refused = []
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 20)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        file.write_bytes(content)
        try:
            read_checkpoint(file, CPU, "remove it")
        except UserError as fault:
            refused.append(str(fault))
    assert len(refused) > 100
    assert not any("\n" in line for line in refused)
