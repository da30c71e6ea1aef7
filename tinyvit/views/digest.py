"""Checksums of probe views: they tell when a library makes other pixels of the same seed."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray


def view_digest(pixels: NDArray[np.uint8]) -> int:
    """CRC-32 of a view's pixels, row by row."""
    return zlib.crc32(np.ascontiguousarray(pixels).tobytes())


def probe_slots(samples: int, probes: int) -> list[int]:
    """The slots whose views are checksummed: spread evenly; fewer samples than probes repeat some."""
    return [i * samples // probes for i in range(probes)]
