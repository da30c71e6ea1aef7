"""LogitStore: the sparse rows of a teacher's logits, by unit on their way in, by epoch on their way out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from logitstore.chunks import UnitArray
from logitstore.errors import StoreError
from logitstore.layout import Keys
from logitstore.packing import pack, unit_arrays, unpack
from logitstore.rows import Rows, UnitRows
from logitstore.spec import ShardTable, StoreSpec, Unit
from logitstore.units import UnitStore

# What is wrong with a store that has rows, but no logits.
NOTHING = "no row of it is valid: every image was broken, or nothing that the teacher said was finite"


class LogitStore(UnitStore[StoreSpec]):
    """A sparse record of a teacher's logits; made with `create` or `open`."""

    SPEC = StoreSpec

    @staticmethod
    def arrays_of(spec: StoreSpec, slots: int) -> dict[str, UnitArray]:
        """See `unit_arrays`."""
        return unit_arrays(spec, slots)

    @classmethod
    def create(
        cls,
        location: str | Path,
        spec: StoreSpec,
        table: ShardTable,
        class_names: Sequence[str] | None = None,
        keys: Keys | None = None,
    ) -> Self:
        """As every store; StoreError too for class names that are not one for each class."""
        if class_names is not None and len(class_names) != spec.num_classes:
            raise StoreError(f"{len(class_names)} class names for {spec.num_classes} classes; give one for each")
        return super().create(location, spec, table, class_names, keys)

    def write_unit(self, unit: Unit, rows: UnitRows) -> None:
        """Write a unit whole, commit it last and read it back. Safe to repeat; takes a seal back first.

        StoreError when the rows are impossible, or when other processes keep writing other rows for this unit.
        """
        epochs = len(self.spec.epochs_of(unit))
        rows.check(self.spec, epochs, self.samples[unit.shard])
        self._write(unit, [pack(rows, number, self.spec, self.arrays) for number in range(epochs)])

    @property
    def has_valid_rows(self) -> bool:
        """Whether any row that can be read is valid; seldom looks further than the first unit."""
        absent = set(self.missing())
        for unit in self.units():
            for epoch in self.spec.epochs_of(unit) if unit not in absent else ():
                try:
                    if self.read(epoch, unit.shard).valid.any():
                        return True
                except StoreError:
                    continue
        return False

    def seal(self) -> str:
        """As of every store; StoreError too where no row is valid."""
        if not self.missing() and not self.has_valid_rows:
            raise StoreError(f"{self.location}: {NOTHING}; see what the teacher says, and label into a new store")
        return super().seal()

    def faults(self) -> list[str]:
        """As of every store, and that none of its rows is valid."""
        found = super().faults()
        return found if found or not self.sealed or self.has_valid_rows else [NOTHING]

    def read(self, epoch: int, shard: int) -> Rows:
        """One epoch of one shard, decoded. StoreError when its unit is not committed or anything is damaged."""
        block, number = divmod(epoch, self.spec.epochs_per_unit)
        return self._rows(Unit(block, shard), [number])[0]

    def read_unit(self, unit: Unit) -> UnitRows:
        """A whole unit as `write_unit` takes it; StoreError as from `read`."""
        return UnitRows.stacked(self._rows(unit, range(len(self.spec.epochs_of(unit)))))

    def _rows(self, unit: Unit, numbers: Sequence[int]) -> list[Rows]:
        return [unpack(values, self.samples[unit.shard], self.spec) for values in self._read(unit, numbers)]
