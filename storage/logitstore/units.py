"""What every store of units has: create, open, write a unit and commit it, read an epoch, seal."""

from __future__ import annotations

import hashlib
import json
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from logitstore.chunks import DamagedObject, UnitArray, Values, checked, checksum
from logitstore.errors import StoreDamaged, StoreError, StoreNotFound, UnitMissing, first_line
from logitstore.layout import KEY_GROUP, Keys, array_digest, new_objects, read_array
from logitstore.objects import MANY_REQUESTS, ByteRange, Objects, open_objects
from logitstore.spec import ShardTable, Unit, UnitSpec, digest_of

# Writing a unit is repeated when it does not read back as written: another process wrote the same unit.
WRITE_ATTEMPTS = 5
# Commits that a seal has in memory at once.
SEAL_BATCH = 2048

ROOT_KEY = "zarr.json"

S = TypeVar("S", bound=UnitSpec)


class UnitStore(ABC, Generic[S]):
    """Arrays that are written unit by unit, each committed last; made with `create` or `open`.

    `location` is a folder or a URL. An instance may be shared by threads and, on a local disk, carried over a
    fork; a remote one is opened anew in each process.
    """

    SPEC: type[S]

    def __init__(self, objects: Objects, attributes: dict[str, Any]) -> None:
        self.objects = objects
        self.location = objects.location
        try:
            self.spec: S = self.SPEC.from_attributes(attributes)
        except StoreError as fault:
            raise type(fault)(f"{self.location}: {fault}") from fault
        self._attributes = attributes

    @staticmethod
    @abstractmethod
    def arrays_of(spec: S, slots: int) -> dict[str, UnitArray]:
        """The arrays that a unit consists of, in the order of its checksum; the longest shard has so many slots."""

    @classmethod
    def create(
        cls,
        location: str | Path,
        spec: S,
        table: ShardTable,
        class_names: Sequence[str] | None = None,
        keys: Keys | None = None,
    ) -> Self:
        """Make an empty store for these shards; `class_names`, where known, has the names of the classes, and `keys`
        gives those of a shard by slot.

        The group's document is written last, so a creation that was cut short leaves no store: the next `create`
        starts anew. StoreError when a store or other data is already there.
        """
        objects = open_objects(location)
        if objects.readable_only:
            raise StoreError(f"{location} can only be read; make the store in a folder or a bucket")
        made = new_objects(spec, cls.arrays_of(spec, table.slots).values(), table, class_names, keys)
        # What a creation that was cut short may have left is written over; anything else is not ours to touch.
        if any(key not in made or key == ROOT_KEY for key, _ in objects.sizes()):
            raise StoreError(f"{location} already exists; open it to resume, or choose another path")
        root = made.pop(ROOT_KEY)
        for key, data in made.items():
            objects.put(key, data)
        if not objects.put_new(ROOT_KEY, root):
            raise StoreError(f"{location} was made by another process meanwhile; open it")
        return cls.open(location)

    @classmethod
    def open(cls, location: str | Path) -> Self:
        """Open an existing store; StoreNotFound when there is none, StoreFormatError when it is of another
        format or version."""
        objects = open_objects(location)
        document = objects.get(ROOT_KEY)
        if document is None:
            raise StoreNotFound(
                f"there is no {cls.SPEC.KIND} at {location}; run {cls.SPEC.MADE_BY} first, or mend the path"
            )
        try:
            attributes = dict(json.loads(document)["attributes"])
        except (ValueError, KeyError, TypeError) as fault:
            raise StoreDamaged(
                f"{location} is not a readable Zarr group; restore its zarr.json, or make it again"
            ) from fault
        return cls(objects, attributes)

    @classmethod
    def exists(cls, location: str | Path) -> bool:
        """Whether a store was ever completely created at `location`, of whatever format version."""
        return open_objects(location).get(ROOT_KEY) is not None

    @cached_property
    def samples(self) -> tuple[int, ...]:
        """How many samples each shard has; with the names all that reading needs to know of the index."""
        return tuple(int(n) for n in self._index_array("shard_samples"))

    @cached_property
    def shard_names(self) -> tuple[str, ...]:
        """The shards' file names."""
        return tuple(str(n) for n in self._index_array("shard_name"))

    @cached_property
    def table(self) -> ShardTable:
        """The index of the data set that the store was made for. StoreDamaged when it is."""
        samples = self.samples
        digests = self._index_array("key_digest", objects=-(-len(samples) // KEY_GROUP))
        table = ShardTable(
            name=self.shard_names,
            samples=samples,
            sha256=tuple(str(n) for n in self._index_array("shard_sha256")),
            key_digest=tuple(row[:n] for row, n in zip(digests, samples, strict=True)),
        )
        if table.digest() != self._attributes["table_digest"]:
            raise StoreDamaged(f"{self.location}: the data set's index is not the one that was written; restore it")
        return table

    @property
    def has_index(self) -> bool:
        """Whether the index of the data set is whole; without it no unit can be named, let alone read."""
        try:
            return len(self.table) > 0
        except StoreError:
            return False

    def check_class_names(self) -> None:
        """StoreDamaged when the class names are not those that were written."""
        _ = self.class_names

    @cached_property
    def class_names(self) -> list[str] | None:
        """The class names in the order of ids; None when there were none. StoreError when damaged."""
        if "class_name" not in self._attributes["document_digests"]:
            return None
        names = [str(name) for name in self._index_array("class_name")]
        if digest_of(names) != self._attributes["class_name_digest"]:
            raise StoreDamaged(f"{self.location}: the class names are not the ones that were written; restore them")
        return names

    def keys(self, shard: int) -> list[str] | None:
        """The keys of a shard by slot; None when the store was made without them. StoreError when damaged."""
        if "key" not in self._attributes["document_digests"]:
            return None
        group = shard // KEY_GROUP
        found = self._index_values("key", [f"key/c/{group}/0"], shard)
        return [str(key) for key in found[: self.samples[shard]]]

    @cached_property
    def arrays(self) -> dict[str, UnitArray]:
        """How the arrays of a unit are kept."""
        return self.arrays_of(self.spec, max(self.samples))

    def units(self) -> list[Unit]:
        """Every planned unit: shard after shard within a block of epochs."""
        return [Unit(block, shard) for block in range(self.spec.blocks) for shard in range(len(self.samples))]

    def views(self, unit: Unit) -> int:
        """How many rows a unit has."""
        return self.samples[unit.shard] * len(self.spec.epochs_of(unit))

    def describe_unit(self, unit: Unit) -> str:
        """A unit in words: its epochs and its shard's name."""
        epochs = self.spec.epochs_of(unit)
        return f"epochs {epochs.start} to {epochs.stop - 1} of {self.shard_names[unit.shard]}"

    def missing(self) -> list[Unit]:
        """The units that no commit vouches for; what a resumed run has to do."""
        if self.objects.readable_only:
            if self.sealed:
                return []
            raise StoreError(
                f"{self.location} is not sealed, and a web server cannot say which units are there; "
                f"open the store where it is written"
            )
        committed = {key for key, _ in self.objects.sizes("committed/c/")}
        return [unit for unit in self.units() if commit_key(unit) not in committed]

    def _write(self, unit: Unit, packed: Sequence[Values]) -> None:
        """Write the values of a unit's epochs, commit them last and read them back; takes a seal back first.

        StoreError when other processes keep writing other values for this unit. Of several writers the last one to
        finish has read back what stands there, so no mixture stays.
        """
        epochs = self.spec.epochs_of(unit)
        objects: dict[str, bytes] = {}
        sums = []
        for name, array in self.arrays.items():
            data, checksums = array.encode([values[name] for values in packed])
            objects[array.key(unit.block, unit.shard)] = data
            sums.append(checksums)
        commitments = np.zeros(self.spec.epochs_per_unit, "<u4")
        for number, epoch in enumerate(epochs):
            commitments[number] = commitment(epoch, unit.shard, [checksums[number] for checksums in sums])
        body = commitments.tobytes()
        commit = {commit_key(unit): body + checksum(body)}
        written = objects | commit
        self.unseal()
        for attempt in range(WRITE_ATTEMPTS):
            # Writers in step with each other would spoil every attempt of both.
            time.sleep(attempt * random.random() / 10)
            self.objects.delete(commit_key(unit))
            self.objects.put_all(objects)
            self.objects.put_all(commit)
            if self.objects.fetch([ByteRange(key) for key in written]) == list(written.values()):
                return
        self.objects.delete(commit_key(unit))
        raise StoreError(f"{self.location}: another process writes the same unit; give each its own units")

    def _read(self, unit: Unit, numbers: Sequence[int]) -> list[Values]:
        """The values of some epochs of a unit. UnitMissing when it is not committed, StoreDamaged when
        anything is damaged."""
        try:
            return list(self._values(unit, numbers))
        except DamagedObject as fault:
            raise StoreDamaged(f"{self.location}: {self.describe_unit(unit)}: {fault}; {self.SPEC.REMEDY}") from fault

    def stored_values(self, unit: Unit) -> Iterator[Values]:
        """The stored values of each epoch of a unit, as `pack` made them. DamagedObject where they are not."""
        return self._values(unit, range(len(self.spec.epochs_of(unit))))

    def committed(self, unit: Unit) -> bool:
        """Whether a commit vouches for a unit."""
        return self.objects.get(commit_key(unit)) is not None

    def uncommit(self, unit: Unit) -> None:
        """Forget a unit, so that the next labelling run redoes it; takes the seal back first."""
        self.unseal()
        self.objects.delete(commit_key(unit))

    def seal(self) -> str:
        """Declare the store complete; returns the time. UnitMissing when some are."""
        if missing := self.missing():
            raise UnitMissing(f"{self.location}: {len(missing)} units are missing; run {self.SPEC.MADE_BY} again")
        self.objects.sweep()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._set_seal(now, self._seal_digest(now))
        return now

    def unseal(self) -> None:
        """Take the seal back, before units are labelled again."""
        if self.sealed:
            self._set_seal("", "")

    @property
    def sealed(self) -> str:
        """When the store was sealed (ISO 8601); empty when it was not."""
        return str(self._attributes.get("sealed", ""))

    @property
    def seal_digest(self) -> str:
        """Of all that the seal vouches for, the time of sealing among it; empty where there is none."""
        return str(self._attributes.get("seal_digest", ""))

    def faults(self) -> list[str]:
        """What is wrong with the store beside its units: documents, index, class names, seal."""
        found = []
        for name, digest in self._attributes["document_digests"].items():
            document = self.objects.get(f"{name}/{ROOT_KEY}")
            try:
                if document is None or array_digest(document) != digest:
                    found.append(f"{name}/{ROOT_KEY} is not the one that was written")
            except ValueError:
                found.append(f"{name}/{ROOT_KEY} is not readable")
        try:
            afresh = type(self)(self.objects, self._attributes)
            table = afresh.table
            # Of ImageNet-21k there are 14 million: a sort in place takes a second, np.unique twenty.
            keys = np.concatenate(table.key_digest)
            keys.sort()
            if (keys[1:] == keys[:-1]).any():
                found.append("two samples have the same key")
            afresh.check_class_names()
        except StoreError as fault:
            return [*found, str(fault)]
        if self.sealed and self._attributes.get("seal_digest") != self._seal_digest(self.sealed):
            found.append("the seal is not that of the committed units")
        return found

    def stored_bytes(self, units: Sequence[Unit]) -> dict[str, int]:
        """Bytes by array: of these committed units, and of all that is not in units; `metadata` is the documents."""
        documents = list(self._attributes["document_digests"])
        named = {f"{name}/{ROOT_KEY}": "metadata" for name in documents} | {ROOT_KEY: "metadata"}
        for unit in units:
            named[commit_key(unit)] = "committed"
            named |= {array.key(unit.block, unit.shard): name for name, array in self.arrays.items()}
        stamps = self.objects.stamps(list(named))
        sizes = [(name, stamp[0]) for name, stamp in zip(named.values(), stamps, strict=True) if stamp]
        for name in set(documents) - {*self.arrays, "committed"}:
            sizes += [(name, size) for key, size in self.objects.sizes(f"{name}/c/")]
        total: dict[str, int] = {}
        for name, size in sizes:
            total[name] = total.get(name, 0) + size
        return total

    def commit_times(self, units: Sequence[Unit]) -> list[float]:
        """When these units were committed, seconds since 1970; those without a commit are left out."""
        stamps = self.objects.stamps([commit_key(unit) for unit in units])
        return [stamp[1] / 1e9 for stamp in stamps if stamp]

    def _values(self, unit: Unit, numbers: Sequence[int]) -> Iterator[Values]:
        """The stored values of some epochs of a unit, counted within it, found to be the committed ones."""
        keys = {name: array.key(unit.block, unit.shard) for name, array in self.arrays.items()}
        whole = len(numbers) == len(self.spec.epochs_of(unit))
        # All epochs are read at once; for some of them the index first, then their bytes.
        parts = [ByteRange(keys[name], 0 if whole else array.index_part) for name, array in self.arrays.items()]
        committed, *found = self.objects.fetch([ByteRange(commit_key(unit)), *parts])
        if committed is None:
            raise UnitMissing(
                f"{self.location}: {self.describe_unit(unit)} are not there yet; run {self.SPEC.MADE_BY} again"
            )
        if lacking := [name for name, data in zip(self.arrays, found, strict=True) if data is None]:
            raise DamagedObject(f"{lacking[0]} is missing")
        data = {name: piece for name, piece in zip(self.arrays, found, strict=True) if piece is not None}
        promised = np.frombuffer(checked(committed, "the commit"), "<u4")
        for number in numbers:
            wanted = [
                array.chunk_part(unit.block, unit.shard, data[name][array.index_part :], number)
                for name, array in self.arrays.items()
            ]
            if whole:
                chunks = [memoryview(data[n])[p.start : p.end] for n, p in zip(self.arrays, wanted, strict=True)]
            else:
                chunks = [memoryview(piece or b"") for piece in self.objects.fetch(wanted)]
            pairs = [array.decode(chunk) for array, chunk in zip(self.arrays.values(), chunks, strict=True)]
            epoch = unit.block * self.spec.epochs_per_unit + number
            if number >= len(promised) or promised[number] != commitment(epoch, unit.shard, [c for _, c in pairs]):
                raise DamagedObject("its values are not the ones that were committed")
            yield {name: values for name, (values, _) in zip(self.arrays, pairs, strict=True)}

    def _seal_digest(self, time: str) -> str:
        sha = hashlib.sha256(f"{time} {self._attributes['spec_digest']}".encode())
        units = self.units()
        for first in range(0, len(units), SEAL_BATCH):
            commits = [ByteRange(commit_key(unit)) for unit in units[first : first + SEAL_BATCH]]
            for committed in self.objects.fetch(commits, MANY_REQUESTS):
                sha.update(committed or b"")
        return sha.hexdigest()

    def _set_seal(self, time: str, digest: str) -> None:
        found = self.objects.get(ROOT_KEY)
        if found is None:
            raise StoreDamaged(f"{self.location}: its {ROOT_KEY} has vanished; restore it")
        document = json.loads(found)
        document["attributes"] |= {"sealed": time, "seal_digest": digest}
        self.objects.put(ROOT_KEY, json.dumps(document, indent=2).encode())
        self._attributes = document["attributes"]

    def _index_array(self, name: str, objects: int = 1) -> NDArray[Any]:
        """An array of the index, which has its values in so many objects along its first dimension."""
        tail = "/0" if name == "key_digest" else ""
        return self._index_values(name, [f"{name}/c/{number}{tail}" for number in range(objects)])

    def _index_values(self, name: str, chunks: list[str], where: int | slice = slice(None)) -> NDArray[Any]:
        keys = [f"{name}/{ROOT_KEY}", *chunks]
        found = zip(keys, self.objects.fetch([ByteRange(key) for key in keys]), strict=True)
        try:
            return read_array({key: data for key, data in found if data is not None}, name, where)
        except (ValueError, KeyError, TypeError, RuntimeError, FileNotFoundError) as fault:
            raise StoreDamaged(
                f"{self.location}: the array {name} cannot be read ({first_line(fault)}); restore it"
            ) from fault


def commit_key(unit: Unit) -> str:
    """The key of the object that commits a unit: a chunk of the array `committed`."""
    return f"committed/c/{unit.block}/{unit.shard}"


def commitment(epoch: int, shard: int, checksums: Sequence[bytes]) -> int:
    """The non-zero number that commits an epoch of a unit: a CRC-32C of its place and its arrays' checksums.

    Naming the place makes an object that was copied or swapped over another one as detectable as a flipped bit.
    """
    return int.from_bytes(checksum(f"{epoch}/{shard}".encode() + b"".join(checksums)), "little") or 1
