"""From the bytes of an image to RGB pixels, the same for teacher and student.

JPEG is decoded by torchvision, bit by bit what Pillow makes of it in three quarters of the time, and by Pillow at a
half, a quarter or an eighth of its size where that is all a view needs: an eighth of 3000 x 2000 pixels takes less than
half the time and a sixty-fourth of the memory. Pillow decodes everything else, and knows of JPEG how it is turned.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torchvision.io import ImageReadMode, decode_jpeg

from tinyvit.config import Decode
from tinyvit.views.rgb import (
    SIDEWAYS,
    Pixels,
    eight_bits,
    opaque,
    opened,
    orientation_of,
    stored_size,
    turn_left,
    turned,
)

# What libjpeg can leave out while it decodes.
REDUCTIONS = (8, 4, 2)

# Counted up when bytes become other pixels than before: a store of other rules is not replayed. The first rules, which
# no store names, turned TIFF only and read grey of 16 bits as white.
RULES = 2


class BrokenImage(ValueError):
    """The bytes are not an image that can be decoded whole. `slot` is whose they are, where that is known."""

    def __init__(self, reason: str, slot: int = -1) -> None:
        super().__init__(reason)
        self.slot = slot


@contextmanager
def reading() -> Iterator[None]:
    """Whatever is raised for an image's bytes within becomes BrokenImage, and warnings of them are not shown."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (BrokenImage, MemoryError):
        raise
    except UnidentifiedImageError as fault:
        # Its own words name a place in memory.
        raise BrokenImage("it is in no format of images that Pillow knows") from fault
    except Exception as fault:  # of damaged files Pillow raises a dozen types
        raise BrokenImage(" ".join(str(fault).split()) or type(fault).__name__) from fault


def record_of(decode: Decode) -> dict[str, Any]:
    """What a store keeps of how its images are read."""
    return {"rules": RULES, **decode.model_dump(mode="json")}


@dataclass(frozen=True)
class _Header:
    """Width and height as they are stored, the format, and by EXIF's numbers the turn of the pixels that are read."""

    stored: tuple[int, int]
    format: str | None
    turn: int
    sideways: bool


class EncodedImage:
    """An image as it stands in a shard, decoded when a view needs it; what was decoded is kept for the next one.

    Size and pixels are those of the image as it is shown: turned, and on a background, as `decode` says.
    """

    def __init__(self, content: bytes, decode: Decode) -> None:
        self._content, self._rule = content, decode
        self._opened: Image.Image | None = None
        self._decoded: dict[int, Pixels] = {}

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the whole image. BrokenImage when the bytes are none."""
        width, height = self._header.stored
        return (height, width) if self._header.sideways else (width, height)

    @cached_property
    def _header(self) -> _Header:
        obey = self._rule.orientation == "exif"
        with reading():
            self._opened = image = opened(self._content)
            orientation = orientation_of(image)
            return _Header(
                stored=stored_size(image),
                format=image.format,
                turn=turn_left(image, orientation, obey),
                sideways=obey and orientation >= SIDEWAYS,
            )

    def reduction(self, width: float, height: float, size: int) -> int:
        """How far a part of this image may be reduced, and still has `size` pixels a side: 1, 2, 4 or 8."""
        if self._header.format != "JPEG":
            return 1
        return next((r for r in REDUCTIONS if min(width, height) >= r * size), 1)

    def pixels(self, reduction: int = 1) -> Pixels:
        """[height / reduction, width / reduction, 3] RGB, rounded up. BrokenImage when it cannot be read to its end."""
        if reduction not in self._decoded:
            self._decoded[reduction] = turned(self._decode(reduction), self._header.turn)
        return self._decoded[reduction]

    def _decode(self, reduction: int) -> Pixels:
        if self._header.format == "JPEG" and reduction == 1:
            try:
                # Its channels come first, but lie last in memory.
                decoded: torch.Tensor = decode_jpeg(_tensor(self._content), ImageReadMode.RGB)  # type: ignore[assignment]
                return decoded.permute(1, 2, 0).numpy()
            except RuntimeError:
                # Kinds of JPEG that torchvision refuses, or a broken one: Pillow knows.
                pass
        width, height = self._header.stored
        with reading():
            # Opened once where that will do; an image that was read would keep its pixels beside ours.
            image, self._opened = self._opened or opened(self._content), None
            image.draft("RGB", (width // reduction, height // reduction))
            return np.array(opaque(eight_bits(image), self._rule.background))


def _tensor(content: bytes) -> torch.Tensor:
    with warnings.catch_warnings():
        # torch dislikes memory that it may not write to; it is only read.
        warnings.simplefilter("ignore", UserWarning)
        return torch.frombuffer(content, dtype=torch.uint8)
