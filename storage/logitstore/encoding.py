"""How the probabilities of a row become small numbers and come back.

Values of the lossy encodings are uniform steps of sqrt(p). For a small error e of sqrt(p) a class adds about
2 e^2 to the Kullback-Leibler divergence whatever its probability (the metric of Fisher information), so no bit
goes to digits that the loss cannot see: on average the divergence of K classes is at most K / (6 levels^2).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

# What level 0 means, in levels: the classes that round to it are many and mostly far less likely than the cell's
# middle. 1/8 is the best power of two on real rows (benchmarks/results/storage_*.md).
ZERO_LEVEL = 0.125

# Of float16; below it numbers lose digits.
SMALLEST_NORMAL = np.float32(2.0**-14)

# Rows of more numbers are summed in parts.
LONG = 1000

# By so much may the remainder of a row differ when its entries are added in another order.
ROUNDING = np.float32(1e-6)

Floats = NDArray[np.float32]
Unsigned = NDArray[np.unsignedinteger]
Absent = NDArray[np.bool_] | None


def sums(values: Floats) -> Floats:
    """The sum of each row [N, K]."""
    # einsum sums rows of a hundred numbers three times as fast as sum, and those of many thousands less exactly.
    return np.asarray(np.einsum("ij->i", values) if values.shape[1] <= LONG else values.sum(axis=1))


@dataclass(frozen=True)
class Encoding(ABC):
    """How probabilities and the residual of rows are stored."""

    name: str
    # The type of stored residuals.
    residual_dtype: str

    @abstractmethod
    def errors(self, probability: Floats) -> Floats:
        """The largest error of sqrt(p) of each entry of a row that is read as probability [K], the best one first."""

    @abstractmethod
    def value_dtype(self, top_k: int) -> str:
        """The type of stored values in a store of this K."""

    @abstractmethod
    def encode(self, probability: NDArray[np.floating], residual: Floats, top_k: int) -> NDArray[Any]:
        """Stored values [N, K] of walked rows (0: no such entry); `residual` [N] as it will be read back."""

    @abstractmethod
    def decode(self, values: NDArray[Any], absent: Absent, residual: Floats, top_k: int) -> Floats:
        """Probabilities [N, K] float32; `absent` [N, K] marks what is no entry; None: rows have K of them."""

    @abstractmethod
    def describe(self, top_k: int) -> str:
        """The formula that undoes `encode`, for the attributes of the array."""

    def describe_residual(self) -> str:
        """The formula that undoes `encode_residual`, for the attributes of the array."""
        return f"mass outside the entries = sin(max(residual, 1/8) * pi / {2 * np.iinfo(self.residual_dtype).max})^2"

    def encode_residual(self, residual: NDArray[np.floating]) -> NDArray[Any]:
        """The angle of the residual, sin(angle)^2 = residual, in steps of pi / 2 / largest: fine at both ends.

        The last step is kept for nothing: a row always has some mass on its kept classes.
        """
        largest = np.iinfo(self.residual_dtype).max
        angle = np.arcsin(np.sqrt(np.clip(residual.astype(np.float64), 0, 1)))
        return np.minimum(np.rint(angle * (2 * largest / np.pi)), largest - 1).astype(self.residual_dtype)

    def decode_residual(self, stored: NDArray[Any], *, all_kept: bool) -> Floats:
        """Undo `encode_residual`, to the mass [N] float32; 0 when every class is kept."""
        if all_kept:
            return np.zeros(stored.shape, np.float32)
        angle = np.maximum(stored, ZERO_LEVEL) * (np.pi / 2 / np.iinfo(self.residual_dtype).max)
        mass: Floats = (np.sin(angle) ** 2).astype(np.float32)
        return mass


@dataclass(frozen=True)
class Levels(Encoding):
    """sqrt(p) in `levels` uniform steps. The best class takes what the others and the residual leave.

    Stored are levels above the row's lowest one, and in the first place that lowest level: rows differ in it,
    and what is left is alike in all rows.
    """

    levels: int
    dtype: str

    def errors(self, probability: Floats) -> Floats:
        """Two levels: rounding takes half of one, balancing one more, and where the best class must be kept first, it
        gains by the level that another one loses. It may also lose by every class that is read as more than nothing.
        """
        found = np.full(len(probability), 2 / self.levels, np.float32)
        most = probability[0] + len(probability) * (ZERO_LEVEL / self.levels) ** 2
        found[0] += np.sqrt(most) - np.sqrt(probability[0])
        return found

    def value_dtype(self, top_k: int) -> str:
        return self.dtype

    def encode(self, probability: NDArray[np.floating], residual: Floats, top_k: int) -> Unsigned:
        present = probability[:, 1:] > 0
        exact = np.sqrt(probability[:, 1:]) * np.float32(self.levels)
        level = np.rint(exact).astype(np.int32)
        self._balance(level, exact, present, probability[:, 0], residual)
        self._keep_the_best_first(level, present, residual)
        lowest = np.min(level, axis=1, initial=np.iinfo(np.int32).max, where=present, keepdims=True)
        lowest[~present.any(axis=1)] = 0
        values: Unsigned = np.concatenate([lowest, np.where(present, level - lowest, 0)], axis=1).astype(self.dtype)
        return values

    def _balance(
        self,
        level: NDArray[np.int32],
        exact: NDArray[np.floating],
        present: NDArray[np.bool_],
        best: NDArray[np.floating],
        residual: Floats,
    ) -> None:
        """Round some classes the other way where the errors of all would move the best one by half a level.

        Errors do not cancel in a flat row, whose classes all round alike. Those nearest to the middle between
        two levels lose least; those that would become level 0 come after them, as it means hardly anything.
        """
        rows = np.flatnonzero(present.any(axis=1))
        while len(rows):
            spare = 1 - residual[rows] - self._others(level, present, rows) - best[rows]
            enough = np.sqrt(best[rows]) / self.levels
            off = np.abs(spare) > enough
            rows, spare, enough = rows[off], spare[off, None], enough[off, None]
            way = np.where(spare > 0, 1, -1)
            change = np.abs(2 * level[rows] * way + 1) / self.levels**2
            loss = (level[rows] - exact[rows]) * way
            better = present[rows] & (level[rows] + way >= 0) & (loss <= 0.5) & (change < 2 * np.abs(spare))
            loss = np.where(better, loss + (level[rows] + way == 0), np.inf)
            # As many at once as would be taken one after the other: of a long row there may be thousands.
            order = loss.argsort(axis=1, kind="stable")
            loss, change = np.take_along_axis(loss, order, 1), np.take_along_axis(change, order, 1)
            left = np.abs(spare) - (change.cumsum(axis=1) - change)
            taken = np.isfinite(loss) & (left > enough) & (change < 2 * left) & (loss < loss[:, :1] + 1)
            taken = np.logical_and.accumulate(taken, axis=1)
            found = taken[:, 0]
            moved = np.zeros_like(level[rows])
            np.put_along_axis(moved, order, taken * way, 1)
            level[rows] += moved
            rows = rows[found]

    def _keep_the_best_first(self, level: NDArray[np.int32], present: NDArray[np.bool_], residual: Floats) -> None:
        """Lower levels where rounding would put another class above the best one, which takes the remainder."""
        rows = np.flatnonzero(present.any(axis=1))
        while len(rows):
            highest = level[rows].max(axis=1)
            p = self._squares(highest.astype(np.float32))
            above = (1 - residual[rows] - self._others(level, present, rows) < p + ROUNDING) & (highest > 0)
            rows = rows[above]
            level[rows, level[rows].argmax(axis=1)] -= 1

    def _others(self, level: NDArray[np.int32], present: NDArray[np.bool_], rows: NDArray[np.intp]) -> Floats:
        """The mass that all classes but the best would be read with."""
        squares = self._squares(level[rows].astype(np.float32))
        squares *= present[rows]
        return sums(squares)

    def _squares(self, level: Floats) -> Floats:
        """Probabilities of levels, in place."""
        np.maximum(level, np.float32(ZERO_LEVEL), out=level)
        level *= np.float32(1 / self.levels)
        return np.multiply(level, level, out=level)

    def decode(self, values: NDArray[Any], absent: Absent, residual: Floats, top_k: int) -> Floats:
        # The sum of both fits their type: it was a level before the lowest was taken off.
        p = self._squares((values + values[:, :1]).astype(np.float32))
        if absent is not None:
            p[absent] = 0
        p[:, 0] = 0
        p[:, 0] = np.maximum(1 - residual - sums(p), np.float32((ZERO_LEVEL / self.levels) ** 2))
        return p

    def describe(self, top_k: int) -> str:
        return (
            f"entry 0 is the row's lowest level; p of the others = (max(value + entry 0, {ZERO_LEVEL}) / "
            f"{self.levels})^2, where class_step is not 0; p of entry 0 = 1 - residual - the sum of the others"
        )


@dataclass(frozen=True)
class Halves(Encoding):
    """Probabilities as float16: what `exact` was in version 2 of the format."""

    @cached_property
    def table(self) -> Floats:
        """Every float16 as float32; 0 as a quarter of the smallest one, for a kept class is not impossible."""
        values = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
        values[0] = 2.0**-26
        return values

    def errors(self, probability: Floats) -> Floats:
        return np.full(len(probability), 2.0**-12, np.float32)

    def value_dtype(self, top_k: int) -> str:
        return "float16"

    def encode(self, probability: NDArray[np.floating], residual: Floats, top_k: int) -> NDArray[np.float16]:
        # Numbers below the normal range by multiplication, for the same reason as in `decode`; 2^-24 is their step.
        normal = np.maximum(probability, SMALLEST_NORMAL).astype(np.float16).view(np.uint16)
        small = np.rint(np.minimum(probability, SMALLEST_NORMAL) * 2**24).astype(np.uint16)
        bits: NDArray[np.uint16] = np.where(probability < SMALLEST_NORMAL, small, normal)
        return bits.view(np.float16)

    def decode(self, values: NDArray[Any], absent: Absent, residual: Floats, top_k: int) -> Floats:
        # By table: numpy converts numbers below 6e-5 one by one.
        p: Floats = self.table.take(values.view(np.uint16), mode="clip")
        if absent is not None:
            p[absent] = 0
        return p

    def describe(self, top_k: int) -> str:
        return "the probability of the entry, where class_step is not 0; 0 means 2^-26"


@dataclass(frozen=True)
class Plain(Encoding):
    """Probabilities and residual as they are."""

    def errors(self, probability: Floats) -> Floats:
        return np.zeros(len(probability), np.float32)

    def value_dtype(self, top_k: int) -> str:
        return "float32"

    def encode(self, probability: NDArray[np.floating], residual: Floats, top_k: int) -> Floats:
        return probability.astype(np.float32)

    def decode(self, values: NDArray[Any], absent: Absent, residual: Floats, top_k: int) -> Floats:
        # What is decoded belongs to who asked, as with every encoding.
        return values.copy()

    def describe(self, top_k: int) -> str:
        return "the probability of the entry; 0: there is none"

    def describe_residual(self) -> str:
        return "mass outside the entries"

    def encode_residual(self, residual: NDArray[np.floating]) -> Floats:
        return residual.astype(np.float32)

    def decode_residual(self, stored: NDArray[Any], *, all_kept: bool) -> Floats:
        return stored


@dataclass(frozen=True)
class Counts(Encoding):
    """Of K draws, how many hit the class."""

    def errors(self, probability: Floats) -> Floats:
        return np.zeros(len(probability), np.float32)

    def value_dtype(self, top_k: int) -> str:
        return "uint8" if top_k <= np.iinfo(np.uint8).max else "uint16"

    def encode(self, probability: NDArray[np.floating], residual: Floats, top_k: int) -> Unsigned:
        counts: Unsigned = np.rint(probability * top_k).astype(self.value_dtype(top_k))
        return counts

    def decode(self, values: NDArray[Any], absent: Absent, residual: Floats, top_k: int) -> Floats:
        p: Floats = values.astype(np.float32) * np.float32(1 / top_k)
        return p

    def describe(self, top_k: int) -> str:
        return f"draws that hit the class; p = value / {top_k}; the residual is 0"


ENCODINGS: dict[str, Encoding] = {
    encoding.name: encoding
    for encoding in (
        # 320: K=100 costs a divergence of at most 1.7e-4 on average.
        Levels("compact", "uint8", 320, "uint8"),
        Levels("fine", "uint16", 4096, "uint16"),
        Plain("exact", "float32"),
        Counts("counts", "uint8"),
    )
}

# What names meant in version 2 of the format, where it was something else.
ENCODINGS_OF_2 = {"exact": Halves("exact", "uint16")}

# Which classes of a row are kept: the K best, the fewest that reach a mass (at most K), or those that K
# random draws hit.
SELECTIONS = ("top_k", "mass", "sampled")
