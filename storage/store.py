"""LogitStore: create, open, write a unit and commit it, read an epoch, seal."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from storage.durable import DurableLocalStore, sweep
from storage.encoding import ENCODINGS
from storage.layout import UNIT_ARRAYS, WRITE_CONFIG, class_id_dtype, create_arrays
from storage.rows import Rows, UnitRows, unit_checksum
from storage.spec import FORMAT, ShardTable, StoreError, StoreSpec, Unit

CREATING = "creating"


class LogitStore:
    """A sparse record of a teacher's answers; made with `create` or `open`.

    Arrays are opened lazily by zarr; do not carry an instance over a fork, open another one in the worker.
    """

    def __init__(self, path: Path, group: zarr.Group) -> None:
        self.path = path
        self._group = group
        self._arrays: dict[str, zarr.Array[Any]] = {}
        try:
            self.spec = StoreSpec.from_attributes(group.attrs.asdict())
        except StoreError as fault:
            raise StoreError(f"{path}: {fault}") from None
        self._table: ShardTable | None = None

    @classmethod
    def create(
        cls, path: str | Path, spec: StoreSpec, table: ShardTable, class_names: Sequence[str] | None = None
    ) -> LogitStore:
        """Make an empty store for these shards; `class_names`, where known, has a name for every class.

        The specification is written last, so a creation that was cut short leaves no store: the next `create`
        starts anew. StoreError when a store or other data is already there.
        """
        path = Path(path)
        if class_names is not None and len(class_names) != spec.num_classes:
            raise StoreError(f"{len(class_names)} class names for {spec.num_classes} classes; give one for each")
        if path.exists() and (not path.is_dir() or any(path.iterdir())) and not _is_half_created(path):
            raise StoreError(f"{path} already exists; open it to resume, or choose another path")
        shutil.rmtree(path, ignore_errors=True)
        group = zarr.create_group(DurableLocalStore(path), attributes={"format": FORMAT, CREATING: True})
        create_arrays(group, spec, table, class_names)
        group.attrs.put({**spec.to_attributes(), "sealed": ""})
        return cls(path, group)

    @classmethod
    def open(cls, path: str | Path, *, writable: bool = False) -> LogitStore:
        """Open an existing store; StoreError when there is none or it is of another format or version."""
        path = Path(path)
        if not (path / "zarr.json").is_file():
            raise StoreError(f"there is no logit store at {path}; run teacher-logits first, or mend the path")
        if _is_half_created(path):
            raise StoreError(f"{path} is a store whose creation was cut short; run teacher-logits again")
        try:
            group = zarr.open_group(DurableLocalStore(path, read_only=not writable), mode="r+" if writable else "r")
        except (ValueError, KeyError, TypeError) as fault:
            raise StoreError(f"{path} is not a readable Zarr group ({fault}); restore or label again") from None
        return cls(path, group)

    @classmethod
    def exists(cls, path: str | Path) -> bool:
        """Whether a store was ever completely created at `path`, of whatever format version."""
        return (Path(path) / "zarr.json").is_file() and not _is_half_created(Path(path))

    @property
    def table(self) -> ShardTable:
        """The index of the data set that the store was made for."""
        if self._table is None:
            samples = tuple(int(n) for n in self._whole("shard_samples"))
            digests = self._whole("key_digest")
            self._table = ShardTable(
                name=tuple(str(n) for n in self._whole("shard_name")),
                samples=samples,
                sha256=tuple(str(n) for n in self._whole("shard_sha256")),
                key_digest=tuple(row[:n] for row, n in zip(digests, samples, strict=True)),
            )
        return self._table

    @property
    def class_names(self) -> list[str] | None:
        """The teacher's class names in the order of ids; None when it had none."""
        if "class_name" not in self._group:
            return None
        return [str(name) for name in self._whole("class_name")]

    def array(self, name: str) -> zarr.Array[Any]:
        """A Zarr array of the store by name; StoreError when it is missing or not of the recorded type."""
        if name not in self._arrays:
            found = self._group.get(name)
            if not isinstance(found, zarr.Array):
                raise StoreError(f"{self.path}: the array {name} is missing; restore it or label again")
            self._arrays[name] = found.with_config(WRITE_CONFIG)
        return self._arrays[name]

    def units(self) -> list[Unit]:
        """Every planned unit: shard after shard within a block of epochs."""
        shards = self.array("committed").shape[1]
        return [Unit(block, shard) for block in range(self.spec.blocks) for shard in range(shards)]

    def missing(self) -> list[Unit]:
        """The units that no commit vouches for; what a resumed run has to do."""
        committed = self._whole("committed")
        return [unit for unit in self.units() if not committed[unit.block, unit.shard]]

    def write_unit(self, unit: Unit, rows: UnitRows) -> None:
        """Write a unit whole and commit it last. Safe to repeat; StoreError when the rows are impossible."""
        epochs, samples = self.spec.epochs_of(unit), self.table.samples[unit.shard]
        rows.check(self.spec, len(epochs), samples)
        encoded = self._encode(rows)
        self.array("committed")[unit.block, unit.shard] = 0
        for name, values in encoded.items():
            array = self.array(name)
            padded = np.zeros((len(epochs), 1, *array.shape[2:]), array.dtype)
            padded[:, 0, : values.shape[1]] = values
            array[epochs.start : epochs.stop, unit.shard : unit.shard + 1] = padded
        self.array("committed")[unit.block, unit.shard] = unit_checksum(unit, encoded)

    def read_unit(self, unit: Unit) -> dict[str, NDArray[Any]]:
        """The stored arrays of a unit without padding, as they were checksummed: {name: [E, S or P, ...]}."""
        epochs, samples = self.spec.epochs_of(unit), self.table.samples[unit.shard]
        return {
            name: np.asarray(self.array(name)[epochs.start : epochs.stop, unit.shard])[
                :, : self.spec.probes if name == "view_digest" else samples
            ]
            for name in UNIT_ARRAYS
        }

    def checksum(self, unit: Unit) -> int:
        """The checksum of a unit's values as they read back now."""
        return unit_checksum(unit, self.read_unit(unit))

    def commitment(self, unit: Unit) -> int:
        """The checksum that was committed for a unit; 0 when it was not."""
        return int(np.asarray(self.array("committed")[unit.block, unit.shard]))

    def read(self, epoch: int, shard: int) -> Rows:
        """One epoch of one shard, decoded. StoreError when its unit is not committed or a chunk is damaged."""
        unit = Unit(epoch // self.spec.epochs_per_unit, shard)
        if not self.commitment(unit):
            raise StoreError(
                f"{self.path}: epoch {epoch} of shard {self.table.name[shard]} is not labelled yet; "
                f"run teacher-logits again"
            )
        samples = self.table.samples[shard]
        stored = {name: self._part(name, epoch, shard)[:samples] for name in UNIT_ARRAYS[:5]}
        return Rows(
            class_id=stored["class_id"],
            log_ratio=ENCODINGS[self.spec.encoding].decode(stored["log_ratio"]),
            residual=stored["residual"].astype(np.float32),
            seed=stored["seed"],
            valid=stored["valid"],
        )

    def view_digests(self, epoch: int, shard: int) -> NDArray[np.uint32]:
        """[P] the checksums of the probe views of one epoch of one shard."""
        return self._part("view_digest", epoch, shard)

    def seal(self) -> str:
        """Declare the store complete; returns the time. StoreError when units are missing."""
        if missing := self.missing():
            raise StoreError(f"{self.path}: {len(missing)} units are missing; run teacher-logits again")
        sweep(self.path)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._group.attrs.update({"sealed": now})
        return now

    def unseal(self) -> None:
        """Take the seal back, before units are labelled again."""
        self._group.attrs.update({"sealed": ""})

    def uncommit(self, unit: Unit) -> None:
        """Forget a unit, so that the next labelling run redoes it; takes the seal back first."""
        self.unseal()
        self.array("committed")[unit.block, unit.shard] = 0

    @property
    def sealed(self) -> str:
        """When the store was sealed (ISO 8601); empty when it was not."""
        return str(self._group.attrs.get("sealed", ""))

    def stored_bytes(self) -> dict[str, int]:
        """Bytes on disk by array, and `metadata` for all zarr.json files."""
        sizes: dict[str, int] = {"metadata": 0}
        for file in self.path.rglob("*"):
            if file.is_file():
                name = "metadata" if file.name == "zarr.json" else file.relative_to(self.path).parts[0]
                sizes[name] = sizes.get(name, 0) + file.stat().st_size
        return sizes

    def _whole(self, name: str) -> NDArray[Any]:
        return np.asarray(self.array(name)[:])

    def _part(self, name: str, epoch: int, shard: int) -> NDArray[Any]:
        try:
            return np.asarray(self.array(name)[epoch, shard])
        except (ValueError, RuntimeError) as fault:
            raise StoreError(
                f"{self.path}: {name} of epoch {epoch}, shard {shard} is damaged ({fault}); "
                f"run `tinyvit store verify` and label again"
            ) from None

    def _encode(self, rows: UnitRows) -> dict[str, NDArray[Any]]:
        """The arrays as they are stored; rows that are not valid become zeros, so that bytes are reproducible."""
        keep = rows.valid[..., None]
        # Below the range of float16 lies no mass that matters; -inf stays, it says that nothing is left out.
        residual = np.where(rows.valid, rows.residual, 0).astype(np.float16)
        return {
            "class_id": np.where(keep, rows.class_id, 0).astype(class_id_dtype(self.spec.num_classes)),
            "log_ratio": ENCODINGS[self.spec.encoding].encode(np.where(keep, rows.log_ratio, 0)),
            "residual": residual,
            "seed": rows.seed,
            "valid": rows.valid,
            "view_digest": rows.view_digest,
        }


def _is_half_created(path: Path) -> bool:
    if not (path / "zarr.json").is_file():
        return all(file.suffix == ".partial" for file in path.iterdir())
    try:
        attributes = zarr.open_group(DurableLocalStore(path, read_only=True), mode="r").attrs
        return attributes.get("format") == FORMAT and bool(attributes.get(CREATING))
    except (ValueError, KeyError, TypeError):
        return False
