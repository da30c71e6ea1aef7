"""From gradients to weights: AdamW by timm's parameter groups, its cosine schedule, mixed precision, the average."""

from __future__ import annotations

from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from tinyvit.config import StageBase


class Optimiser:
    """Takes the gradients of a step into the weights.

    Each step has a number on the way through all epochs, from which its learning rate follows: the schedule has no
    state to keep.
    """

    def __init__(self, model: nn.Module, stage: StageBase, steps: int, scaled: bool) -> None:
        self._model, self._stage = model, stage
        self._adamw = create_optimizer_v2(
            model,
            opt="adamw",
            lr=stage.lr * stage.lr_scale,
            weight_decay=stage.weight_decay,
            layer_decay=stage.layers,
            fused=True,
        )
        self._schedule: Scheduler = create_scheduler_v2(
            self._adamw,
            num_epochs=stage.epochs,
            warmup_epochs=stage.warmup_epochs,  # type: ignore[arg-type]
            warmup_lr=stage.warmup_lr * stage.lr_scale,
            min_lr=stage.min_lr * stage.lr_scale,
            warmup_prefix=False,
            step_on_epochs=False,
            updates_per_epoch=steps,
        )[0]
        self._scaler = torch.amp.GradScaler(next(model.parameters()).device.type, enabled=scaled)
        # What a forward pass changes in the model, batch norm's running statistics, as it was after the last good step.
        self._kept = self._running() if stage.non_finite == "skip" else None
        # With a warm-up, so that a short training is not averaged with the weights that it began with.
        self.ema = ModelEmaV3(model, decay=stage.ema, use_warmup=True) if stage.ema else None

    @property
    def best_model(self) -> nn.Module:
        """What is evaluated and kept: the average where there is one."""
        return self.ema.module if self.ema else self._model

    @property
    def learning_rate(self) -> float:
        """Of the groups that learn fastest."""
        return float(max(group["lr"] for group in self._adamw.param_groups))

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a part of a step."""
        self._scaler.scale(loss).backward()

    def step(self, number: int) -> Tensor:
        """Update the weights and forget the gradients; the rate of step `number + 1` comes next.

        Returns the norm of the gradient before it was clipped, a scalar on the device. Where steps that are not
        finite are to be left out, such a step changes nothing, batch norm's statistics included.
        """
        self._scaler.unscale_(self._adamw)
        parameters = list(self._model.parameters())
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if self._stage.clip_grad:
            nn.utils.clip_grads_with_norm_(parameters, self._stage.clip_grad, norm)
        # To know takes a wait for the device, so only those ask who want it.
        finite = self._kept is None or bool(norm.isfinite())
        if self._kept is not None:
            running = list(self._model.buffers())
            source, target = (running, self._kept) if finite else (self._kept, running)
            torch._foreach_copy_(target, source)
        # With float16 the scaler knows by itself, and learns from it.
        if finite or self._scaler.is_enabled():
            self._scaler.step(self._adamw)
            if self.ema:
                self.ema.update(self._model, step=number)
        self._scaler.update()
        self._adamw.zero_grad()
        self._schedule.step_update(number)
        return norm

    def state(self) -> dict[str, Any]:
        """All that a later process needs to go on, but the model's own weights."""
        return {
            "adamw": self._adamw.state_dict(),
            "scaler": self._scaler.state_dict(),
            "average": self.ema.module.state_dict() if self.ema else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._adamw.load_state_dict(state["adamw"])
        # A state of another precision has none, and what it had means nothing to another.
        if self._scaler.is_enabled() and state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])
        if self._kept is not None:
            self._kept = self._running()
        if self.ema:
            self.ema.module.load_state_dict(state["average"])

    def _running(self) -> list[Tensor]:
        """A copy of the model's buffers."""
        return [buffer.clone() for buffer in self._model.buffers()]
