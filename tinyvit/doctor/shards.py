"""Whether the shards can be read, each of them to its end, and what they say of themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tinyvit.data.index import ShardIndex, index_shards, shard_faults
from tinyvit.data.location import ShardLocation, train_and_val
from tinyvit.doctor.finding import Finding
from tinyvit.errors import UserError
from tinyvit.runtime.progress import Progress

# Of many damaged shards the first are named.
NAMED = 5
REMEDY = "fetch or make these shards again; `tinyvit data check` reads every image"


@dataclass(frozen=True)
class Shards:
    """A data set that was opened, or None, and what was found on the way."""

    index: ShardIndex | None
    findings: list[Finding]

    @classmethod
    def open(cls, data: str | None, progress: Progress) -> Shards:
        """The shards at `data`, a place of .tar files or one with `train` inside."""
        if data is None:
            return cls(None, [Finding("shards", "skipped", "no shards were given", "give --data, or a recipe")])
        try:
            location = train_and_val(data)[0]
            index = index_shards(location, progress)
        except UserError as fault:
            return cls(None, list(_faults(location, fault, progress)))
        names = index.class_names
        images = f"{sum(index.counts):,} images in {len(index):,} shards at {location}"
        if names is None:
            told = f"{images}, read to their ends; no classes.txt beside them says what their labels mean"
            remedy = "write classes.txt, a class name a line in the order of the labels, if there are labels"
            return cls(index, [Finding("shards", "hint", told, remedy)])
        told = f"{images}, read to their ends; classes.txt names {len(names):,} classes"
        return cls(index, [Finding("shards", "ok", told)])


def _faults(location: str, fault: UserError, progress: Progress) -> Iterator[Finding]:
    try:
        lines = shard_faults(ShardLocation(location), progress)
    except UserError:
        lines = []
    if not lines:
        yield Finding.of_fault("shards", fault)
        return
    more = f"; and {len(lines) - NAMED} more" if len(lines) > NAMED else ""
    told = "; ".join(line.rpartition("; ")[0] or line for line in lines[:NAMED])
    yield Finding("shards", "failed", told + more, REMEDY)
