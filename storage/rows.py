"""The two shapes in which rows travel: a whole unit on its way in, one epoch of a shard on its way out."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storage.spec import StoreError, StoreSpec, Unit


@dataclass(frozen=True)
class UnitRows:
    """The answers for one unit: E epochs, S samples, the K best classes of each view, P probes.

    class_id    [E, S, K] integer, best first
    log_ratio   [E, S, K] float, log(p_k / p_1): 0 first, never rising
    residual    [E, S] float, log of the probability mass outside the K classes; -inf when there is none
    seed        [E, S] uint32, remakes the view
    valid       [E, S] bool; rows that are not valid may hold anything
    view_digest [E, P] uint32, checksums of the probe views
    """

    class_id: NDArray[np.integer]
    log_ratio: NDArray[np.floating]
    residual: NDArray[np.floating]
    seed: NDArray[np.uint32]
    valid: NDArray[np.bool_]
    view_digest: NDArray[np.uint32]

    def check(self, spec: StoreSpec, epochs: int, samples: int) -> None:
        """Raise StoreError unless shapes and values are what the store promises its readers."""
        wanted = {
            "class_id": (epochs, samples, spec.top_k),
            "log_ratio": (epochs, samples, spec.top_k),
            "residual": (epochs, samples),
            "seed": (epochs, samples),
            "valid": (epochs, samples),
            "view_digest": (epochs, spec.probes),
        }
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape:
                raise StoreError(f"{name} has the shape {getattr(self, name).shape}, the unit needs {shape}")
        ids, ratios, residual = (
            self.class_id[self.valid],
            self.log_ratio[self.valid],
            self.residual[self.valid],
        )
        if faults := row_faults(spec, ids, ratios, residual):
            raise StoreError(f"rows cannot be stored: {'; '.join(faults)}")


@dataclass(frozen=True)
class Rows:
    """One epoch of one shard as read back: S samples, K classes.

    class_id  [S, K] uint16 or uint32, best first
    log_ratio [S, K] float32 nats
    residual  [S] float32, log of the mass outside the K classes
    seed      [S] uint32
    valid     [S] bool; the other fields of a row that is not valid mean nothing
    """

    class_id: NDArray[np.unsignedinteger]
    log_ratio: NDArray[np.float32]
    residual: NDArray[np.float32]
    seed: NDArray[np.uint32]
    valid: NDArray[np.bool_]

    def probabilities(self) -> NDArray[np.float32]:
        """[S, K] float32: the kept probabilities; with exp(residual) each row sums to one."""
        return probabilities(self.log_ratio, self.residual)


def probabilities(log_ratio: NDArray[np.floating], residual: NDArray[np.floating]) -> NDArray[np.float32]:
    """Kept probabilities from ratios [..., K] and the log of the mass outside them [...].

    The kept mass is 1 - exp(residual), computed without cancellation, and shared out by the ratios: rounding
    of the ratios moves mass between kept classes but never invents or loses any.
    """
    ratios = np.exp(log_ratio.astype(np.float32))
    kept = -np.expm1(residual.astype(np.float32))
    shares: NDArray[np.float32] = ratios * (kept / ratios.sum(axis=-1))[..., None]
    return shares


def row_faults(
    spec: StoreSpec,
    class_id: NDArray[np.integer],
    log_ratio: NDArray[np.floating],
    residual: NDArray[np.floating],
) -> list[str]:
    """What is impossible in these valid rows ([N, K], [N, K], [N]); empty when nothing is."""
    faults = []
    if class_id.size and (class_id.min() < 0 or class_id.max() >= spec.num_classes):
        faults.append(f"a class id outside 0..{spec.num_classes - 1}")
    ordered = np.sort(class_id, axis=-1)
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        faults.append("a class twice in one row")
    if not np.isfinite(log_ratio).all() or (log_ratio > 0).any():
        faults.append("a log-ratio that is not a finite number at most 0")
    elif (log_ratio[:, :1] != 0).any() or (np.diff(log_ratio, axis=-1) > 0).any():
        faults.append("classes that are not in the order of their probability")
    if np.isnan(residual).any() or (residual > 0).any():
        faults.append("a residual that is not a log-probability")
    return faults


def unit_checksum(unit: Unit, arrays: dict[str, NDArray[np.generic]]) -> int:
    """The non-zero number that commits a unit: a CRC-32 of its place and of every stored value in it.

    Naming the place makes a unit that was copied or swapped over another one as detectable as a flipped bit.
    """
    crc = zlib.crc32(f"{unit.block}/{unit.shard}".encode())
    for name in sorted(arrays):
        crc = zlib.crc32(np.ascontiguousarray(arrays[name]).tobytes(), zlib.crc32(name.encode(), crc))
    return crc or 1
