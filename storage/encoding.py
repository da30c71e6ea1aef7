"""How log-ratios become small integers: a linear scale that CF-aware readers undo by themselves."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Encoding:
    """A linear quantisation of log(p_k / p_1), which is 0 for the best class and negative below.

    `scale` is the CF `scale_factor` (negative: the stored integer grows as the class gets less likely),
    so a reader computes `stored * scale`. Ratios below `floor` are stored as `floor`.
    """

    name: str
    dtype: str
    scale: float

    @property
    def floor(self) -> float:
        """The smallest log-ratio that can be told apart, in nats."""
        return self.scale * float(np.iinfo(self.dtype).max)

    @property
    def max_error(self) -> float:
        """The largest rounding error of a log-ratio above `floor`, in nats."""
        return abs(self.scale) / 2

    def encode(self, log_ratio: NDArray[np.floating]) -> NDArray[np.unsignedinteger]:
        """Quantise log-ratios (any shape, at most 0) to the stored integers."""
        steps: NDArray[np.unsignedinteger] = np.rint(np.maximum(log_ratio, self.floor) / self.scale).astype(self.dtype)
        return steps

    def decode(self, stored: NDArray[np.unsignedinteger]) -> NDArray[np.float32]:
        """Undo `encode`, to float32 nats."""
        return stored.astype(np.float32) * np.float32(self.scale)


# 1/16 nat covers ratios down to 1.2e-7, the resolution of the teacher's own float32 softmax; 1/2048 nat is
# finer than the half unit in the last place of a float16 probability.
ENCODINGS: dict[str, Encoding] = {
    encoding.name: encoding
    for encoding in (Encoding("compact", "uint8", -1 / 16), Encoding("fine", "uint16", -1 / 2048))
}
