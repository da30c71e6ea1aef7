"""How much of a device's arithmetic a network uses: its operations, and what a large matrix product reaches."""

from __future__ import annotations

import copy
import time

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

PRODUCTS = 20


def forward_flops(model: nn.Module, size: int) -> int:
    """Floating-point operations of a forward pass of one image; an addition and a multiplication are two."""
    counted = copy.deepcopy(model).cpu().eval()
    for module in counted.modules():
        # The counter does not know every fused attention, but every product that one is made of.
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # type: ignore[assignment]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        counted(torch.zeros(1, 3, size, size))
    return int(counter.get_total_flops())


def training_flops(model: nn.Module, size: int) -> int:
    """Of a step, an image: gradients for inputs and weights cost twice the forward pass, besides it."""
    return 3 * forward_flops(model, size)


def product_rate(device: torch.device, side: int = 8192) -> float:
    """Operations a second of bfloat16 products of square matrices of random numbers."""
    one = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    for _ in range(3):
        one @ one
    synchronise(device)
    began = time.perf_counter()
    for _ in range(PRODUCTS):
        one @ one
    synchronise(device)
    return PRODUCTS * 2 * side**3 / (time.perf_counter() - began)


def synchronise(device: torch.device) -> None:
    """Wait for all that a device has been given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
