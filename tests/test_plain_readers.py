"""Strangers read a store: stock zarr and xarray in a process that cannot import this project."""

import json
import re
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import zarr
from isolated import without_packages
from support import ROOT
from toy import stored

from logitstore import LogitStore, verify
from logitstore.testing import SPEC, TABLE, random_rows

OURS = {"logitstore", "tinyvit", "tinyvit_flows"}


def lines_of(page: str, *marks: str) -> str:
    """The blocks of Python on a page that have these marks in them, one after the other."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    return "\n".join(next(block for block in blocks if mark in block) for mark in marks)


FIRST = "class_id = "
UNDO = {
    "compact": lines_of("docs/store.md", FIRST, "/ 320"),
    "fine": lines_of("docs/store.md", FIRST, "/ 320").replace("/ 510)", "/ 131070)").replace("/ 320)", "/ 4096)"),
    "exact": lines_of("docs/store.md", FIRST, 'row["value"], row["residual"]'),
    "counts": lines_of("docs/store.md", FIRST, 'attrs["top_k"]'),
    "README": lines_of("README.md", "/ 320"),
    "xarray": """
import numpy, xarray
store = xarray.open_zarr("runs/example/store", consolidated=False)
assert store.value.dims == ("epoch", "shard", "slot", "entry")
row = {name: store[name].isel(epoch=1, shard=3, slot=7).values for name in ("class_step", "value", "residual", "seed")}
"""
    + lines_of("docs/store.md", FIRST, "/ 320").partition("# epoch, shard, slot")[2],
}
SAID = "print(json.dumps([class_id.tolist(), numpy.asarray(p, float).tolist(), float(residual), int(row['seed'])]))"


@pytest.fixture(scope="module")
def stores(small_store: LogitStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, LogitStore]:
    """A store of each kind; the one of the real teacher is `compact`."""
    folder = tmp_path_factory.mktemp("kinds")
    kinds = {kind: replace(SPEC, encoding=kind) for kind in ("fine", "exact")}
    kinds["counts"] = replace(SPEC, encoding="counts", selection="sampled")
    made = {kind: LogitStore.create(folder / kind, spec, TABLE) for kind, spec in kinds.items()}
    for kind, store in made.items():
        for unit in store.units():
            rows = random_rows(unit, store.spec)
            if kind == "counts":
                draws = np.broadcast_to([2, 1, 1, 0], rows.probability.shape) / 4
                rows = replace(rows, probability=draws, residual=np.zeros_like(rows.residual))
            store.write_unit(unit, rows)
    return {**made, "compact": small_store, "README": small_store, "xarray": small_store}


def test_a_stranger_reads_ids_probabilities_residual_and_seed_by_the_lines_of_the_docs(
    stores: dict[str, LogitStore], tmp_path: Path
) -> None:
    code, places = "import json\n", dict[str, tuple[int, int, int]]()
    for kind, undo in UNDO.items():
        epoch, shard, slot = places[kind] = (1, 1, min(7, stores[kind].samples[1] - 1))
        here = undo.replace("runs/example/store", stores[kind].location).replace("1, 3, 7", f"{epoch}, {shard}, {slot}")
        here = here.replace("epoch=1, shard=3, slot=7", f"epoch={epoch}, shard={shard}, slot={slot}")
        code += f"{here}\n{SAID}\n"
    done = without_packages(OURS, code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    for kind, line in zip(UNDO, done.stdout.splitlines(), strict=True):
        ids, probability, residual, seed = json.loads(line)
        epoch, shard, slot = places[kind]
        rows = stores[kind].read(epoch, shard)
        there = rows.probability[slot] > 0
        assert np.array(ids)[there].tolist() == rows.class_id[slot][there].tolist()
        assert np.allclose(probability, rows.probability[slot], rtol=0, atol=1e-7)
        assert residual == pytest.approx(float(rows.residual[slot]), rel=1e-5)
        assert seed == int(rows.seed[slot])
        assert sum(probability) + residual == pytest.approx(1, abs=1e-6)


def test_xarray_writes_elsewhere_what_it_has_read_by_the_lines_of_the_docs(
    small_store: LogitStore, tmp_path: Path
) -> None:
    code = lines_of("docs/store.md", "copy.nc").replace("runs/example/store", small_store.location)
    if not (find_spec("netCDF4") or find_spec("h5netcdf")):
        code = "\n".join(line for line in code.splitlines() if "copy.nc" not in line)
    done = without_packages(OURS, code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    copied, own = zarr.open_group(tmp_path / "copy.zarr", mode="r"), zarr.open_group(small_store.location, mode="r")
    for name in small_store.arrays:
        assert np.array_equal(np.asarray(stored(copied, name)[:]), np.asarray(stored(own, name)[:]))


@pytest.mark.parametrize("name", ["class_step", "value", "residual", "seed", "valid", "view_digest", "committed"])
def test_zarr_writes_what_the_store_reads(small_store: LogitStore, tmp_path: Path, name: str) -> None:
    """Every array rewritten by stock zarr is still the store that was sealed, where it packs as we do."""
    copy = tmp_path / "copy"
    shutil.copytree(small_store.location, copy)
    array = stored(zarr.open_group(copy, mode="r+"), name)
    array[:] = array[:]
    opened = LogitStore.open(copy)
    assert not any(faults for _, faults in verify(opened))
    assert not opened.faults()
