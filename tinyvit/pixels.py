"""From batches of uint8 views to what a network takes."""

import torch
from torch import Tensor


def normalise(views: Tensor, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> Tensor:
    """[N, H, W, 3] uint8 on the CPU -> [N, 3, H, W] float32 on `device`, (x / 255 - mean) / std per channel.

    Bytes travel to the device and are widened there: a quarter of the traffic. The result keeps the order of
    the bytes, channels last, which convolutions want on a CPU as on a GPU.
    """
    pixels = views.to(device, non_blocking=True).permute(0, 3, 1, 2).float()
    shift = 255 * torch.tensor(mean, device=device).view(1, 3, 1, 1)
    scale = 255 * torch.tensor(std, device=device).view(1, 3, 1, 1)
    return pixels.sub_(shift).div_(scale)


def default_device() -> torch.device:
    """The GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
