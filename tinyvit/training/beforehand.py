"""What can be known of a stage before it begins: said then, and not after an epoch or a stage of weeks."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tinyvit.errors import UserError
from tinyvit.runtime.foreign import foreign
from tinyvit.training.run import Run
from tinyvit.training.task import EpochViews, Task


def refuse_untrainable(run: Run[Any], name: str, task: Task) -> None:
    """UserError for a network that does not take the images it will be given, or is given too few at a time.

    Of a part of a step with a single image, batch norm may see a single value, which torch refuses.
    """
    stage, engine, world = run.recipe.stages[name], run.recipe.engine, run.world
    module, sizes = task.input_sizes
    norms = list[str]()
    for height, width in sizes:
        image = torch.zeros(1, 3, height, width, device=next(module.parameters()).device)
        with foreign(f"{run.recipe.student.name} takes no image of {width} x {height}", "take another student"):
            norms += lone_norms(module, image)
    together = engine.sync_batch_norm and world.size > 1
    if (
        norms
        and stage.batch_size // world.size // task.grad_accum_steps < 2
        and not (stage.eval_batch_norm or together)
    ):
        raise UserError(
            f"stage {name}: with a batch_size of {stage.batch_size}, {world.size} processes and engine.micro_batch="
            f"{engine.micro_batch} batch norm ({norms[0]}) has a single value to learn from; raise batch_size or "
            f"micro_batch, or set stages.{name}.eval_batch_norm=true"
        )


def refuse_empty_epochs(name: str, epoch: int, done: int, views: list[EpochViews]) -> None:
    """UserError for an epoch without a whole step. `views` are those from `epoch` on, after `done` of its steps."""
    for number, one in enumerate(views, epoch):
        if not one.steps + (done if number == epoch else 0):
            raise UserError(f"stage {name}: epoch {number + 1} has no whole batch of views with logits")


def lone_norms(network: nn.Module, image: Tensor) -> list[str]:
    """The batch norm layers that see a single value of each channel of an image [1, 3, H, W].

    Of a single value there is no spread: torch refuses to train on such an image alone.
    """
    found: list[str] = []

    def look(name: str, _layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs[0].numel() == inputs[0].shape[1]:
            found.append(name)

    layers = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, _BatchNorm)]
    hooks = [layer.register_forward_pre_hook(partial(look, name)) for name, layer in layers]
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            network(image)
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return found
