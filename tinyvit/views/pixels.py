"""From batches of uint8 views to what a network takes."""

from functools import lru_cache

import torch
from torch import Tensor


def normalise(views: Tensor, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> Tensor:
    """[N, H, W, 3] uint8 on the CPU -> [N, 3, H, W] float32 on `device`, (x / 255 - mean) / std per channel.

    Bytes travel to the device and are widened there: a quarter of the traffic. The result keeps the order of
    the bytes, channels last, which convolutions want on a CPU as on a GPU.
    """
    pixels = views.to(device, non_blocking=True).permute(0, 3, 1, 2).float()
    return pixels.sub_(_in_bytes(mean, device)).div_(_in_bytes(std, device))


@lru_cache(maxsize=32)
def _in_bytes(values: tuple[float, ...], device: torch.device) -> Tensor:
    """[1, 3, 1, 1] of values per channel, times 255.

    Kept: to send them is to wait until the device has done all that it was given, in every step.
    """
    with torch.inference_mode(False):
        return 255 * torch.tensor(values, device=device).view(1, 3, 1, 1)
