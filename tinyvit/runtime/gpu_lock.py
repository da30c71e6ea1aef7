"""A GPU of its own for each labelling process of a machine, however the processes were started."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch


@cache
def reserve_gpu() -> torch.device:
    """The first GPU that no other process has taken this way, until this one ends; the CPU where there is none.

    Where every GPU is taken, processes share them in turn.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # By their identifiers: CUDA_VISIBLE_DEVICES numbers them anew in each process.
    names = [str(torch.cuda.get_device_properties(number).uuid) for number in range(torch.cuda.device_count())]
    number = lock_first(names, Path(tempfile.gettempdir()) / "tinyvit-gpus")
    return torch.device("cuda", os.getpid() % len(names) if number is None else number)


def lock_first(names: Sequence[str], folder: Path) -> int | None:
    """The number of the first of these that no process on this machine has, taken until this process ends.

    None where every one is taken. The kernel gives back what a killed process had.
    """
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o1777)  # for every user of the machine
    for number, name in enumerate(names):
        handle = os.open(folder / name, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            continue
        # Not inherited by other programs, and open for as long as this process lives.
        return number
    return None
