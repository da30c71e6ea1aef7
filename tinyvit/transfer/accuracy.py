"""An accuracy and how certain it is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

# Standard deviations of a normal distribution within which 95 % of it lie.
Z95 = 1.959964


@dataclass(frozen=True)
class Accuracy:
    """In percent: the accuracy and the ends of its 95 % interval; `of` says what it is counted over."""

    percent: float
    low: float
    high: float
    of: str

    @classmethod
    def counted(cls, right: int, total: int) -> Accuracy:
        """Of so many images: the interval of Wilson (1927), which stays within 0 and 100."""
        share, z = right / total, Z95 / math.sqrt(total)
        centre = (share + z * z / 2) / (1 + z * z)
        half = z / (1 + z * z) * math.sqrt(share * (1 - share) + z * z / 4)
        # At 0 and 1 its ends are those of the share, but for rounding.
        low, high = max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))
        return cls(100 * share, 100 * low, 100 * high, f"{total:,} images")

    @classmethod
    def averaged(cls, shares: Sequence[float], of: str) -> Accuracy:
        """The mean of some shares, in 0 to 1, such as those of episodes; the interval is that of the mean."""
        mean = 100 * statistics.mean(shares)
        half = 100 * Z95 * statistics.stdev(shares) / math.sqrt(len(shares))
        return cls(mean, mean - half, mean + half, f"{len(shares):,} {of}")

    def as_dict(self) -> dict[str, Any]:
        """JSON-simple."""
        return asdict(self)
