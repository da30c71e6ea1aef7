"""Files that torch.save wrote, read without running what is in them, and the weights in those of others."""

from __future__ import annotations

import logging
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tinyvit.errors import UserError

log = logging.getLogger("tinyvit")

# Where training code keeps weights, an average of them (EMA) first: it is what timm takes, and what is published.
ENTRIES = ("state_dict_ema", "model_ema", "ema", "state_dict", "model")
# What is put before the names of a network's tensors by torch's data parallelism and compiler, and by networks that
# have it as a part.
WRAPPERS = ("module.", "_orig_mod.")
PART = "image_encoder."
# How torch says that a file holds more than data.
UNSAFE = re.compile(r"GLOBAL (\S+) (?:was not an allowed|whose module)")
CHUNK = 1 << 24


@dataclass(frozen=True)
class Weights:
    """The weights in a file: tensors by name, the entry that they are from ("" where the file is nothing else), other
    entries with weights, and how many tensors of other parts of a larger network were left.
    """

    state: dict[str, Tensor]
    entry: str
    others: tuple[str, ...]
    left: int


def read_checkpoint(file: Path, device: torch.device, advice: str) -> Any:
    """What a file holds, its tensors on a device. UserError, ending in the advice, for what is no such file, and for
    one whose bytes are not what was written.
    """
    with refusing_other_files(file, advice):
        _check_archive(file)
        return torch.load(file, map_location=device, weights_only=True)


def read_weights(file: Path, entry: str | None, advice: str) -> Weights:
    """The weights of a network in a .safetensors file or in one of torch.save, on the CPU, whatever code wrote it.

    Of several entries the first of ENTRIES is taken, unless one is named. UserError, ending in the advice, where there
    are none, and for weights that are not finite.
    """
    if not file.is_file():
        raise UserError(f"there is no file {file}; {advice}")
    if file.suffix == ".safetensors":
        with refusing_other_files(file, advice):
            content: Any = load_file(file)
    else:
        # The paper's checkpoints carry a yacs node, a kind of dict: its entries are read, its code is not.
        with torch.serialization.safe_globals([(OrderedDict, "yacs.config.CfgNode")]):
            content = read_checkpoint(file, torch.device("cpu"), advice)
    found = _entries(content)
    if entry is not None and entry not in found:
        raise UserError(f"{file} has no weights under {entry!r}; it has some under {', '.join(found) or 'no name'}")
    if not found:
        has = f"has {', '.join(map(str, content))[:200]}" if isinstance(content, Mapping) else "is something else"
        raise UserError(f"{file} holds no weights by name, under {' or '.join(ENTRIES)} or alone: it {has}; {advice}")
    chosen = entry if entry is not None else next(iter(found))
    if others := tuple(name for name in found if name != chosen):
        log.info("%s: the weights are those under %r; it also has %s", file, chosen, ", ".join(others))
    state, left = _bare(file, found[chosen])
    if left:
        log.info("%s: %d tensors are of other parts than %s and are left out", file, left, PART.rstrip("."))
    for name, values in state.items():
        if values.is_floating_point() and not bool(values.isfinite().all()):
            wrong = int((~values.isfinite()).sum())
            raise UserError(f"{file}: {wrong} of {values.numel()} values of {name} are NaN or infinite; {advice}")
    return Weights(state, chosen, others, left)


def _entries(content: Any) -> dict[str, dict[str, Tensor]]:
    """What may be weights, by where it is, in the order of preference."""
    if not isinstance(content, Mapping):
        return {}
    found = {name: _tensors(content.get(name)) for name in ENTRIES} | {"": _tensors(content)}
    return {name: tensors for name, tensors in found.items() if tensors}


def _tensors(value: Any) -> dict[str, Tensor] | None:
    if not isinstance(value, Mapping):
        return None
    # An average may be kept as a module of one.
    inner = value.get("module")
    if isinstance(inner, Mapping):
        return _tensors(inner)
    return dict(value) if value and all(isinstance(one, Tensor) for one in value.values()) else None


def _bare(file: Path, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """Tensors by the network's own names, and how many are of other parts."""
    names = {name: _unwrapped(name) for name in tensors}
    part = [name for name in tensors if names[name].startswith(PART)]
    chosen = {_unwrapped(names[name].removeprefix(PART)): tensors[name] for name in part or tensors}
    if len(chosen) < len(part or tensors):
        raise UserError(f"{file} has tensors whose names differ in {' and '.join(WRAPPERS)} alone; keep one network")
    return chosen, len(tensors) - len(chosen)


def _unwrapped(name: str) -> str:
    while name.startswith(WRAPPERS):
        for wrapper in WRAPPERS:
            name = name.removeprefix(wrapper)
    return name


@contextmanager
def refusing_other_files(file: Path, advice: str) -> Iterator[None]:
    """UserError where the file cannot be read as a checkpoint, damaged or with more in it than data."""
    try:
        yield
    except Exception as fault:  # on foreign bytes torch's unpickler fails in as many ways as it has opcodes
        if unsafe := UNSAFE.search(str(fault)):
            raise UserError(
                f"{file} is no checkpoint that can be read safely (it holds a {unsafe[1]}, whose code would be run); "
                f"if you trust where it comes from, write a file of its tensors alone: torch.load it with "
                f"weights_only=False and torch.save the state dict in it; else {advice}"
            ) from fault
        reason = str(fault).strip().partition("\n")[0] or type(fault).__name__
        raise UserError(f"{file} is no checkpoint that can be read safely ({reason}); {advice}") from fault


def _check_archive(file: Path) -> None:
    """ValueError where a checksum of a zip archive, which torch does not look at, does not fit."""
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            # Torch writes 0 where it was told not to reckon them (torch.serialization.set_crc32_options).
            if not member.CRC:
                continue
            try:
                with archive.open(member) as content:
                    while content.read(CHUNK):
                        pass
            except zipfile.BadZipFile as fault:
                raise ValueError(f"damaged: the checksum of {member.filename} does not fit") from fault
