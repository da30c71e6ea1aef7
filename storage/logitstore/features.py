"""FeatureStore: what a network makes of every image of a data set, before its classifier.

One dense vector an image, kept and committed by the same units as a teacher's logits: one shard of the data set
each, with the digests of a few prepared images that say whether they are still prepared alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitstore.chunks import UnitArray
from logitstore.errors import StoreError
from logitstore.spec import Unit, UnitSpec
from logitstore.units import UnitStore


@dataclass(frozen=True)
class FeatureSpec(UnitSpec):
    """Everything that decides what the features mean: the `network` (name, digest of its weights) and the
    `preparation` of its images (size, crop, interpolation, mean, std, precision).
    """

    FORMAT = "feature-store"
    VERSIONS = (1,)
    KIND = "feature store"
    MADE_BY = "the evaluation"
    REMEDY = "remove it; it is made again"

    channels: int
    network: Mapping[str, Any]
    preparation: Mapping[str, Any]
    probes: int = 4


@dataclass(frozen=True)
class Features:
    """Of the S images of a shard.

    feature     [S, C] float32
    label       [S] int32
    view_digest [P] uint32, checksums of the prepared probe images
    """

    feature: NDArray[np.float32]
    label: NDArray[np.int32]
    view_digest: NDArray[np.uint32]


class FeatureStore(UnitStore[FeatureSpec]):
    """The features of a data set; made with `create` or `open`."""

    SPEC = FeatureSpec

    @staticmethod
    def arrays_of(spec: FeatureSpec, slots: int) -> dict[str, UnitArray]:
        """The arrays of `Features`."""
        arrays: list[tuple[str, str, tuple[str, ...], tuple[int, ...], str]] = [
            ("feature", "float32", ("slot", "channel"), (slots, spec.channels), "what the classifier is given"),
            ("label", "int32", ("slot",), (slots,), "number of the picture's class"),
            ("view_digest", "uint32", ("probe",), (spec.probes,), "CRC-32 of the pixels of prepared probe pictures"),
        ]
        return {
            name: UnitArray(name, np.dtype(dtype), shape, dims, spec.epochs_per_unit, about)
            for name, dtype, dims, shape, about in arrays
        }

    def write_shard(self, shard: int, features: Features) -> None:
        """Write and commit a shard's features. StoreError for other shapes, or features that are not finite."""
        samples = self.samples[shard]
        if features.feature.shape != (samples, self.spec.channels) or features.label.shape != (samples,):
            raise StoreError(
                f"features {features.feature.shape} do not fit {samples} images of {self.shard_names[shard]}"
            )
        if not np.isfinite(features.feature).all():
            raise StoreError(
                f"{self.spec.network['name']} gives features that are not finite for {self.shard_names[shard]}"
            )
        values = vars(features)
        self._write(Unit(0, shard), [{name: array.padded(values[name]) for name, array in self.arrays.items()}])

    def read_shard(self, shard: int) -> Features:
        """A shard's features. StoreError when they are not committed or damaged."""
        (values,) = self._read(Unit(0, shard), [0])
        samples = self.samples[shard]
        return Features(values["feature"][:samples], values["label"][:samples], values["view_digest"])
