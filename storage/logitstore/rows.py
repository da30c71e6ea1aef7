"""The two shapes in which rows travel: a whole unit on its way in, one epoch of a shard on its way out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from logitstore.encoding import ROUNDING
from logitstore.errors import StoreError
from logitstore.spec import StoreSpec

# A residual is nothing where it is below this: what the coarsest encoding reads nothing as.
NONE = 1e-6

# Kept probabilities and residual sum to one; float16 values and float32 sums of a thousand of them miss it by this.
SUM_TOLERANCE = 2e-3


@dataclass(frozen=True)
class UnitRows:
    """The rows of one unit: E epochs, S samples, at most K classes of each view, P probes.

    class_id    [E, S, K] integer, the best class first, the others in any order
    probability [E, S, K] float; 0 where a row has fewer than K classes, whatever the id there
    residual    [E, S] float, the probability mass outside the kept classes
    seed        [E, S] uint32, remakes the view
    valid       [E, S] bool; rows that are not valid may hold anything
    view_digest [E, P] uint32, checksums of the probe views
    """

    class_id: NDArray[np.integer]
    probability: NDArray[np.floating]
    residual: NDArray[np.floating]
    seed: NDArray[np.uint32]
    valid: NDArray[np.bool_]
    view_digest: NDArray[np.uint32]

    @classmethod
    def stacked(cls, epochs: Sequence[Rows]) -> UnitRows:
        """The epochs of a unit, read one by one, as one."""
        return cls(**{name: np.stack([getattr(rows, name) for rows in epochs]) for name in vars(epochs[0])})

    def check(self, spec: StoreSpec, epochs: int, samples: int) -> None:
        """Raise StoreError unless shapes and values are what the store promises its readers."""
        wanted = {
            "class_id": (epochs, samples, spec.top_k),
            "probability": (epochs, samples, spec.top_k),
            "residual": (epochs, samples),
            "seed": (epochs, samples),
            "valid": (epochs, samples),
            "view_digest": (epochs, spec.probes),
        }
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape:
                raise StoreError(f"{name} has the shape {getattr(self, name).shape}, the unit needs {shape}")
        ids, p, residual = self.class_id[self.valid], self.probability[self.valid], self.residual[self.valid]
        if faults := row_faults(spec, ids, p, residual):
            raise StoreError(f"rows cannot be stored: {'; '.join(faults)}")


@dataclass(frozen=True)
class Rows:
    """One epoch of one shard as read back: S samples, K entries.

    class_id    [S, K] uint16 or uint32: the best class first, the others in ascending order from it, around
    probability [S, K] float32; 0 where a row has fewer than K classes (the id then repeats the last one)
    residual    [S] float32, the mass outside the kept classes; with the probabilities it sums to one
    seed        [S] uint32
    valid       [S] bool; the other fields of a row that is not valid mean nothing
    view_digest [P] uint32, checksums of the probe views
    """

    class_id: NDArray[np.unsignedinteger]
    probability: NDArray[np.float32]
    residual: NDArray[np.float32]
    seed: NDArray[np.uint32]
    valid: NDArray[np.bool_]
    view_digest: NDArray[np.uint32]


def row_faults(
    spec: StoreSpec,
    class_id: NDArray[np.integer],
    probability: NDArray[np.floating],
    residual: NDArray[np.floating],
) -> list[str]:
    """What is impossible in these valid rows ([N, K], [N, K], [N]); empty when nothing is."""
    faults = []
    if class_id.size and (class_id.min() < 0 or class_id.max() >= spec.num_classes):
        faults.append(f"a class id outside 0..{spec.num_classes - 1}")
    with np.errstate(invalid="ignore"):
        present = probability > 0
        # Absent entries get numbers of their own, so that they repeat nothing.
        ordered = np.where(present, class_id.astype(np.int32), -1 - np.arange(class_id.shape[1], dtype=np.int32))
        ordered.sort(axis=-1)
        if (ordered[:, 1:] == ordered[:, :-1]).any():
            faults.append("a class twice in one row")
        if not ((probability >= 0) & (probability <= 1)).all():
            faults.append("a probability that is not a number from 0 to 1")
        elif (
            not present[:, 0].all() or (probability[:, 1:].max(axis=-1, initial=0) > probability[:, 0] + ROUNDING).any()
        ):
            faults.append("a first class that is not the best")
        elif spec.selection == "top_k" and not (present.all(axis=-1) | (not spec.all_there) & (residual < NONE)).all():
            faults.append("fewer classes than the store keeps of each view")
        if not ((residual >= 0) & (residual <= 1)).all():
            faults.append("a residual that is not a number from 0 to 1")
        elif not faults and (np.abs(probability.sum(axis=-1) + residual - 1) > SUM_TOLERANCE).any():
            faults.append("probabilities that do not sum to one with the residual")
    return faults
