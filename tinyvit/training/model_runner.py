"""How a network is computed: precision, memory layout, compilation, several devices."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from tinyvit.config import Engine
from tinyvit.errors import UserError
from tinyvit.runtime.distributed import World
from tinyvit.runtime.foreign import foreign

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class ModelRunner:
    """A network as the engine computes it; `model` is the bare one, whose weights these are."""

    def __init__(
        self, model: nn.Module, engine: Engine, world: World, eval_batch_norm: bool, fixed_input_size: bool
    ) -> None:
        cuda = world.device.type == "cuda"
        repeat_exactly(engine.deterministic)
        # Of another size cuDNN would try all its algorithms again, at each step of a detector.
        torch.backends.cudnn.benchmark = fixed_input_size and not engine.deterministic
        if engine.sync_batch_norm:
            if not cuda:
                raise UserError("engine.sync_batch_norm needs GPUs: torch has it for them only; leave it out")
            model = synchronised(model)
        # Channels last is what convolutions want, on a CPU as on a GPU.
        self.model: Any = model.to(world.device).to(memory_format=torch.channels_last)
        if engine.grad_checkpointing:
            with foreign("engine.grad_checkpointing is not for this student", "leave it out"):
                self.model.set_grad_checkpointing()  # type: ignore[operator]
        self.dtype = precision_of(engine.precision, world.device)
        self._device, self._eval_batch_norm = world.device, eval_batch_norm
        # Over all ranks: then none may go another way than the others, and no view is alone.
        self._together = engine.sync_batch_norm and world.size > 1
        # Each rank's batch norm sees its own images; the first rank's statistics count.
        self._ranks = DistributedDataParallel(self.model) if world.size > 1 else None
        forward: Any = self._ranks or self.model
        self._forward: Any = torch.compile(forward) if engine.compile else forward

    @property
    def needs_grad_scaler(self) -> bool:
        """Whether the loss must be scaled, or gradients vanish."""
        return self.dtype == torch.float16

    def train(self) -> None:
        """Switch to training, but for batch norm that is to keep its statistics."""
        self.model.train()
        if self._eval_batch_norm:
            self._keep_statistics(True)

    def _keep_statistics(self, keep: bool) -> None:
        for module in self.model.modules():
            if isinstance(module, _BatchNorm):
                module.train(not keep)

    @contextmanager
    def accumulate(self, last: bool, few: bool) -> Iterator[None]:
        """Forward and backward of a part of a step: ranks add up their gradients with the last one.

        With too `few` views for statistics of their own, batch norm keeps those that it has.
        """
        still = few and not self._eval_batch_norm and not self._together
        if still:
            self._keep_statistics(True)
        try:
            with nullcontext() if last or self._ranks is None else self._ranks.no_sync():
                yield
        except torch.OutOfMemoryError as fault:
            raise UserError(
                f"a forward pass does not fit into the memory of {self._device}; set engine.micro_batch, or lower it"
            ) from fault
        if still:
            self._keep_statistics(False)

    def __call__(self, *inputs: Any) -> Any:
        """What the network makes of its inputs, at the precision."""
        with torch.autocast(self._device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self._forward(*inputs)


def synchronised(model: nn.Module) -> nn.Module:
    """The network with batch norm over the images of all ranks."""
    # torch's own function drops the activations of timm's layers of norm and activation.
    together: nn.Module = convert_sync_batchnorm(model)
    return together


def precision_of(name: str, device: torch.device) -> torch.dtype:
    """What a precision's name means on a device. UserError for an unknown one."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in PRECISIONS:
        raise UserError(f"there is no precision {name!r}; choose one of auto, {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def repeat_exactly(wanted: bool) -> None:
    """Only algorithms that give the same bits each time, or whatever is fastest; for the whole process."""
    if wanted:
        # cuBLAS repeats its sums only with a workspace of its own. torch looks at this once, at the first product.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted)
