"""From the bytes of a picture to RGB pixels, the same for teacher and student.

JPEG is decoded by torchvision, bit by bit what Pillow makes of it in three quarters of the time, and by Pillow at a
half, a quarter or an eighth of its size where that is all a view needs: an eighth of 3000 x 2000 pixels takes less than
half the time and a sixty-fourth of the memory. Pillow decodes everything else.
"""

from __future__ import annotations

import io
import struct
import warnings
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torchvision.io import ImageReadMode, decode_jpeg

# What libjpeg can leave out while it decodes.
REDUCTIONS = (8, 4, 2)

# Pillow raises SyntaxError and struct.error for some broken files, and its bomb error for a picture of absurd size.
FAULTS = (UnidentifiedImageError, OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)

Pixels = NDArray[np.uint8]


class BrokenImage(ValueError):
    """The bytes are not a picture that can be decoded whole. `slot` is whose they are, where that is known."""

    def __init__(self, reason: str, slot: int = -1) -> None:
        super().__init__(reason)
        self.slot = slot


class EncodedImage:
    """A picture as it stands in a shard, decoded when a view needs it; what was decoded is kept for the next one."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._opened: Image.Image | None = None
        self._decoded: dict[int, Pixels] = {}

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the whole picture. BrokenImage when the bytes are none."""
        return self._header[0]

    @cached_property
    def _header(self) -> tuple[tuple[int, int], str | None]:
        with warnings.catch_warnings():
            # Pillow warns from half its limit on.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            try:
                self._opened = Image.open(io.BytesIO(self._content))
                return self._opened.size, self._opened.format
            except FAULTS as fault:
                raise BrokenImage(str(fault)) from None

    def reduction(self, width: float, height: float, size: int) -> int:
        """How far a part of this picture may be reduced, and still has `size` pixels a side: 1, 2, 4 or 8."""
        if self._header[1] != "JPEG":
            return 1
        return next((r for r in REDUCTIONS if min(width, height) >= r * size), 1)

    def pixels(self, reduction: int = 1) -> Pixels:
        """[height / reduction, width / reduction, 3] RGB, rounded up. BrokenImage when it cannot be read to its end."""
        if reduction not in self._decoded:
            self._decoded[reduction] = self._decode(reduction)
        return self._decoded[reduction]

    def _decode(self, reduction: int) -> Pixels:
        if self._header[1] == "JPEG" and reduction == 1:
            try:
                # Its channels come first, but lie last in memory.
                decoded: torch.Tensor = decode_jpeg(_tensor(self._content), ImageReadMode.RGB)  # type: ignore[assignment]
                return decoded.permute(1, 2, 0).numpy()
            except RuntimeError:
                # Kinds of JPEG that torchvision refuses, or a broken one: Pillow knows.
                pass
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # Opened once where that will do; an image that was read would keep its pixels beside ours.
                image, self._opened = self._opened or Image.open(io.BytesIO(self._content)), None
                image.draft("RGB", (self.size[0] // reduction, self.size[1] // reduction))
                return np.array(image.convert("RGB"))
        except FAULTS as fault:
            raise BrokenImage(str(fault)) from None


def _tensor(content: bytes) -> torch.Tensor:
    with warnings.catch_warnings():
        # torch dislikes memory that it may not write to; it is only read.
        warnings.simplefilter("ignore", UserWarning)
        return torch.frombuffer(content, dtype=torch.uint8)
