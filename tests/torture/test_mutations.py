"""Random damage to a sealed store: each is reported or provably harmless, and none gives a wrong row in silence."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from logitstore import LogitStore, Rows, StoreError, verify


def flip(file: Path, rng: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def truncate(file: Path, rng: random.Random) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: rng.randrange(len(content))])


def append(file: Path, rng: random.Random) -> None:
    file.write_bytes(file.read_bytes() + rng.randbytes(rng.randint(1, 50)))


def overwrite(file: Path, rng: random.Random) -> None:
    content = bytearray(file.read_bytes())
    start = rng.randrange(len(content))
    length = rng.randint(1, 64)
    content[start : start + length] = rng.randbytes(len(content[start : start + length]))
    file.write_bytes(content)


def delete(file: Path, _rng: random.Random) -> None:
    file.unlink()


def swap(file: Path, rng: random.Random) -> None:
    """With another object of the same array, or where it has none, with any other."""
    root = next(parent for parent in file.parents if (parent / "committed").is_dir())
    every = [other for other in root.rglob("*") if other.is_file() and other != file]
    same = [other for other in every if other.relative_to(root).parts[0] == file.relative_to(root).parts[0]]
    other = rng.choice([o for o in same if o.name != "zarr.json"] or every)
    mine, theirs = file.read_bytes(), other.read_bytes()
    file.write_bytes(theirs)
    other.write_bytes(mine)


MUTATIONS: tuple[Callable[[Path, random.Random], None], ...] = (flip, flip, truncate, append, overwrite, delete, swap)


def everything(store: LogitStore) -> list[Rows | str]:
    """Every row of a store, or the word for what refuses to be read."""
    found: list[Rows | str] = []
    for epoch in range(store.spec.epochs):
        for shard in range(len(store.table)):
            try:
                found.append(store.read(epoch, shard))
            except StoreError:
                found.append("refused")
    return found


def same(one: Rows, two: Rows) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(two, name)) for name in vars(one))


def outcome(path: Path, whole: LogitStore, rows: list[Rows]) -> str:
    """How a damaged store answers. Fails the test for a wrong row, name or index that is given without a word."""
    try:
        store = LogitStore.open(path)
        names, table, sealed = store.class_names, store.table, store.sealed
    except StoreError:
        return "refused when opened"
    read = everything(store)
    assert all(r == "refused" or same(r, w) for r, w in zip(read, rows, strict=True)), "a wrong row in silence"  # type: ignore[arg-type]
    assert names == whole.class_names
    assert not table.differences(whole.table)
    assert store.spec == whole.spec
    if store.faults() or any(faults for _, faults in verify(store)):
        return "reported by verify, a row refused" if "refused" in read else "reported by verify"
    # Not reported: then nothing that the store says may differ.
    assert "refused" not in read
    assert sealed == whole.sealed
    return "harmless"


def test_random_mutations_of_a_sealed_store(
    small_store: LogitStore, tmp_path: Path, long: bool, tell: Callable[[str], None]
) -> None:
    rng = random.Random(0)
    rows = [r for r in everything(small_store) if isinstance(r, Rows)]
    path = tmp_path / "s"
    outcomes: Counter[tuple[str, str]] = Counter()
    for _ in range(1000 if long else 150):
        shutil.copytree(small_store.location, path)
        files = sorted(file for file in path.rglob("*") if file.is_file())
        mutate = rng.choice(MUTATIONS)
        mutate(rng.choice(files), rng)
        outcomes[mutate.__name__, outcome(path, small_store, rows)] += 1
        shutil.rmtree(path)
    for name, what in sorted(outcomes):
        tell(f"mutation: {name:<9} {outcomes[name, what]:>4} x {what}")
    total, harmless = outcomes.total(), sum(count for (_, what), count in outcomes.items() if what == "harmless")
    tell(f"mutations: {total}, of them reported {total - harmless}, harmless {harmless}, wrong rows 0")
    assert harmless < 0.5 * total
