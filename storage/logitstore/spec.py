"""What a store is a record of: the frozen specifications, the data set's table, units and digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from logitstore.encoding import ENCODINGS, ENCODINGS_OF_2, SELECTIONS, Encoding
from logitstore.errors import StoreDamaged, StoreError, StoreFormatError

# What new stores are: 3 keeps `exact` rows as float32 (2: as float16), and of the best K classes those that are
# possible (2: all). Stores of both are read, and those of 2 completed as such.
FORMAT_VERSION = 3

# Attributes beside the specification: digests of the data set's index, the class names and the arrays' documents.
DIGESTS = ("table_digest", "class_name_digest", "document_digests")


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON-simple value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True, order=True)
class Unit:
    """One shard x one block of epochs: what is planned, computed, written, committed and retried."""

    block: int
    shard: int


@dataclass(frozen=True)
class UnitSpec:
    """What the specifications of all stores of units say; they stand in the attributes of the Zarr group.

    `data` names the data set, `libraries` the versions that made its views, `created` is the time in ISO 8601.
    `format_version` is one of `VERSIONS`, the last if not given.
    """

    FORMAT: ClassVar[str]
    VERSIONS: ClassVar[tuple[int, ...]]
    # What it is, what makes it, and what mends a damaged unit, for messages.
    KIND: ClassVar[str]
    MADE_BY: ClassVar[str]
    REMEDY: ClassVar[str]
    # What was not recorded from the beginning: its default stands for what is not known.
    LATER: ClassVar[tuple[str, ...]] = ()
    # What two may differ in and still mean the same.
    INCIDENTAL: ClassVar[tuple[str, ...]] = ("created", "libraries", "format_version")

    data: str
    epochs: int
    epochs_per_unit: int
    libraries: Mapping[str, str]
    created: str
    format_version: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        if not self.format_version:
            object.__setattr__(self, "format_version", self.VERSIONS[-1])

    @property
    def blocks(self) -> int:
        """How many blocks of epochs there are; the last may be shorter."""
        return -(-self.epochs // self.epochs_per_unit)

    def epochs_of(self, unit: Unit) -> range:
        """The epochs that a unit covers."""
        first = unit.block * self.epochs_per_unit
        return range(first, min(first + self.epochs_per_unit, self.epochs))

    def to_attributes(self, **digests: Any) -> dict[str, Any]:
        """The attributes of the Zarr group, with digests of what else was made with it and one over all of them."""
        body = {"format": self.FORMAT, **asdict(self), **digests}
        return {**body, "spec_digest": digest_of(body)}

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> Self:
        """Undo `to_attributes`. StoreFormatError for another format or version, StoreDamaged for an edited one."""
        if attributes.get("format") != cls.FORMAT:
            raise StoreFormatError(f"the folder is not a {cls.KIND}; give the path that {cls.MADE_BY} wrote")
        if (version := attributes.get("format_version")) not in cls.VERSIONS:
            raise StoreFormatError(
                f"the store has format_version {version}, this program reads "
                f"{' and '.join(map(str, cls.VERSIONS))}; use the release that wrote it"
            )
        names = [f.name for f in fields(cls) if f.name in attributes or f.name not in cls.LATER]
        if missing := [name for name in (*names, *DIGESTS) if name not in attributes]:
            raise StoreDamaged(f"the store's attributes lack {', '.join(missing)}; it is damaged, make it again")
        body = {key: attributes[key] for key in ["format", *names, *DIGESTS]}
        if digest_of(body) != attributes.get("spec_digest"):
            raise StoreDamaged("the store's attributes were changed after it was made; restore zarr.json")
        return cls(**{name: attributes[name] for name in names})

    def differences(self, other: Self) -> list[str]:
        """Where two specifications disagree about what is stored, each as 'field: this, not that'."""
        found = []
        for name in (f.name for f in fields(self) if f.name not in self.INCIDENTAL):
            mine, theirs = getattr(self, name), getattr(other, name)
            if name in self.LATER and bool(mine) != bool(theirs):
                known, unknown = ("here", "in the store") if theirs else ("in the store", "here")
                found.append(f"{name} is not recorded {unknown} (an earlier release made it), {mine or theirs} {known}")
            elif isinstance(mine, Mapping):
                found += [
                    f"{name}.{key} is {mine.get(key)!r} in the store, {theirs.get(key)!r} here"
                    for key in sorted({*mine, *theirs})
                    if mine.get(key) != theirs.get(key)
                ]
            elif mine != theirs:
                found.append(f"{name} is {mine!r} in the store, {theirs!r} here")
        return found


@dataclass(frozen=True)
class StoreSpec(UnitSpec):
    """Everything that decides what the rows of a logit store mean.

    `teacher` names the model (name, source, weights and class-list digests, input size, mean, std),
    `augment` is the augmentation that made the views, `libraries` the versions that replayed it. `decode` says how
    images were read (orientation, background, number of the rules), empty where that is not known. `selection` says
    which classes are kept: the `top_k` best, the fewest of them that reach the probability `mass`, or those that
    `top_k` random draws hit (`sampled`).
    """

    FORMAT = "logit-store"
    VERSIONS = (2, FORMAT_VERSION)
    KIND = "logit store"
    MADE_BY = "teacher-logits"
    REMEDY = "run `tinyvit store verify --repair`, then teacher-logits again"
    LATER = ("decode",)
    # It follows from `augment`, which says more.
    INCIDENTAL = (*UnitSpec.INCIDENTAL, "augment_digest")

    top_k: int
    num_classes: int
    encoding: str
    run_seed: int
    teacher: Mapping[str, Any]
    augment: Mapping[str, Any]
    decode: Mapping[str, Any] = field(default_factory=dict)
    selection: str = "top_k"
    mass: float | None = None
    probes: int = 4
    augment_digest: str = field(default="")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.augment_digest:
            object.__setattr__(self, "augment_digest", digest_of(dict(self.augment)))
        if self.encoding not in ENCODINGS:
            raise StoreError(f"encoding {self.encoding!r} is unknown; choose one of {', '.join(ENCODINGS)}")
        if self.selection not in SELECTIONS:
            raise StoreError(f"selection {self.selection!r} is unknown; choose one of {', '.join(SELECTIONS)}")
        if (self.selection == "sampled") != (self.encoding == "counts"):
            raise StoreError("sampled rows are stored as counts, and only they: choose both or neither")
        if (self.selection == "mass") != (self.mass is not None) or not 0 < (self.mass or 1) <= 1:
            raise StoreError(f"mass={self.mass}: the selection `mass` needs one in 0..1, the others none")
        if not 1 <= self.top_k <= self.num_classes:
            raise StoreError(
                f"top_k={self.top_k} does not fit {self.num_classes} classes; choose 1 to {self.num_classes}"
            )
        if self.epochs < 1 or not 1 <= self.epochs_per_unit <= self.epochs:
            raise StoreError(
                f"epochs={self.epochs} with epochs_per_unit={self.epochs_per_unit}: "
                f"both must be at least 1, and a unit no longer than the store"
            )

    @property
    def coding(self) -> Encoding:
        """How probabilities and residuals are stored."""
        old = ENCODINGS_OF_2 if self.format_version == 2 else {}
        return old.get(self.encoding, ENCODINGS[self.encoding])

    @property
    def all_there(self) -> bool:
        """Whether every row has K classes, also where some of them are impossible."""
        return self.selection == "top_k" and self.format_version == 2

    @property
    def nothing_outside(self) -> bool:
        """Whether no row has mass outside its kept classes."""
        return self.selection == "sampled" or (self.selection == "top_k" and self.top_k == self.num_classes)


@dataclass(frozen=True)
class ShardTable:
    """The data set's index, one entry a shard.

    name [N] file names; samples [N] counts; sha256 [N] of the tar; key_digest [N] arrays uint64 [samples].
    """

    name: tuple[str, ...]
    samples: tuple[int, ...]
    sha256: tuple[str, ...]
    key_digest: tuple[NDArray[np.uint64], ...]

    def __post_init__(self) -> None:
        if not self.name:
            raise StoreError("the data set has no shards")
        lengths = {len(self.name), len(self.samples), len(self.sha256), len(self.key_digest)}
        if len(lengths) != 1 or any(len(k) != n for k, n in zip(self.key_digest, self.samples, strict=True)):
            raise StoreError("the data set's index is inconsistent: counts and keys differ; index it again")

    def __len__(self) -> int:
        return len(self.name)

    def digest(self) -> str:
        """SHA-256 of the whole index."""
        sha = hashlib.sha256(digest_of([self.name, self.samples, self.sha256]).encode())
        for keys in self.key_digest:
            sha.update(keys.astype("<u8").tobytes())
        return sha.hexdigest()

    @property
    def slots(self) -> int:
        """The length of the longest shard: the size of the store's `slot` dimension."""
        return max(self.samples)

    def differences(self, other: ShardTable) -> list[str]:
        """Where two data sets disagree, by shard; empty when they hold the same samples in the same order."""
        mine, theirs = (
            dict(zip(self.name, self.sha256, strict=True)),
            dict(zip(other.name, other.sha256, strict=True)),
        )
        found = [f"shard {name} is in the store, not in the data" for name in mine if name not in theirs]
        found += [f"shard {name} is in the data, not in the store" for name in theirs if name not in mine]
        found += [
            f"shard {name} has other bytes (sha256 {mine[name][:12]} in the store, {theirs[name][:12]} here)"
            for name in mine
            if name in theirs and mine[name] != theirs[name]
        ]
        if not found and self.name != other.name:
            found.append("the shards are the same but in another order")
        return found
