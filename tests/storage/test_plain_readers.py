"""Strangers read a store: stock zarr and xarray in a process that cannot import this project."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from support import without_packages

from storage import LogitStore, verify

OURS = {"storage", "tinyvit", "flows"}


# The README's lines, for one view.
UNDO = """
class_id = row["class_step"].cumsum() % classes
level = row["value"].astype(float); level[1:] += level[0]
residual = numpy.sin(numpy.maximum(row["residual"], 1 / 8) * numpy.pi / 510) ** 2
p = (numpy.maximum(level, 1 / 8) / 320) ** 2
p[0] = 1 - residual - p[1:].sum()
print(json.dumps([class_id.tolist(), p.tolist(), float(residual), int(row["seed"])]))
"""
READERS = {
    "xarray": """
import json, numpy, xarray
data = xarray.open_zarr(STORE, consolidated=False)
assert data.value.dims == ("epoch", "shard", "slot", "entry")
assert data.attrs["teacher"]["name"] == "pypi:efficientnet-lite0"
names = ("class_step", "value", "residual", "seed")
row = {name: data[name].isel(epoch=1, shard=1, slot=7).values for name in names}
classes = data.attrs["num_classes"]
""",
    "zarr": """
import json, numpy, zarr
data = zarr.open_group(STORE, mode="r")
row = {name: data[name][1, 1, 7] for name in ("class_step", "value", "residual", "seed")}
classes = data.attrs["num_classes"]
""",
}


@pytest.mark.parametrize("reader", READERS)
def test_a_stranger_reads_ids_probabilities_residual_and_seed(
    small_store: LogitStore, tmp_path: Path, reader: str
) -> None:
    code = f"STORE = {small_store.location!r}\n{READERS[reader]}{UNDO}"
    done = without_packages(OURS, code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    ids, probability, residual, seed = json.loads(done.stdout)
    rows = small_store.read(1, 1)
    assert ids == rows.class_id[7].tolist()
    assert np.allclose(probability, rows.probability[7], atol=1e-7)
    assert residual == pytest.approx(float(rows.residual[7]), rel=1e-5)
    assert seed == int(rows.seed[7])


@pytest.mark.parametrize("name", ["class_step", "value", "residual", "seed", "valid", "view_digest", "committed"])
def test_zarr_writes_what_the_store_reads(small_store: LogitStore, tmp_path: Path, name: str) -> None:
    """Every array rewritten by stock zarr is still the store that was sealed, where it packs as we do."""
    copy = tmp_path / "copy"
    shutil.copytree(small_store.location, copy)
    array = zarr.open_group(copy, mode="r+")[name]
    array[:] = array[:]
    opened = LogitStore.open(copy)
    assert not any(faults for _, faults in verify(opened))
    assert not opened.faults()
