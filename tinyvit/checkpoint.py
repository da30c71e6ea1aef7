"""Files that torch.save wrote, read without running what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tinyvit.errors import UserError


def read_checkpoint(file: Path, device: torch.device, advice: str) -> Any:
    """What a file holds, its tensors on a device. UserError, ending in the advice, for what is no such file."""
    with refusing_other_files(file, advice):
        return torch.load(file, map_location=device, weights_only=True)


@contextmanager
def refusing_other_files(file: Path, advice: str) -> Iterator[None]:
    """UserError where the file cannot be read as a checkpoint, damaged or with more in it than data."""
    try:
        yield
    except Exception as fault:  # on foreign bytes torch's unpickler fails in as many ways as it has opcodes
        reason = str(fault).strip().partition("\n")[0] or type(fault).__name__
        raise UserError(f"{file} is no checkpoint that can be read safely ({reason}); {advice}") from None
