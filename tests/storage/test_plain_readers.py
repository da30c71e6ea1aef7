"""Strangers read a store: stock zarr and xarray in a process that cannot import this project."""

import json
from pathlib import Path

import numpy as np
from support import without_packages

from storage import LogitStore

OURS = {"storage", "tinyvit", "flows"}


def test_xarray_reads_ids_decoded_ratios_residual_and_seed(small_store: LogitStore, tmp_path: Path) -> None:
    code = f"""
import json, xarray
data = xarray.open_zarr({str(small_store.path)!r}, consolidated=False)
row = data.isel(epoch=1, shard=1, slot=7)
print(json.dumps({{
    "dims": list(data.class_id.dims),
    "class_id": row.class_id.values.tolist(),
    "log_ratio": row.log_ratio.values.tolist(),
    "residual": float(row.residual),
    "seed": int(row.seed),
    "teacher": data.attrs["teacher"]["name"],
}}))
"""
    done = without_packages(OURS, code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    seen, rows = json.loads(done.stdout), small_store.read(1, 1)
    assert seen["dims"] == ["epoch", "shard", "slot", "rank"]
    assert seen["class_id"] == rows.class_id[7].tolist()
    assert np.allclose(seen["log_ratio"], rows.log_ratio[7])
    assert seen["residual"] == float(rows.residual[7])
    assert seen["seed"] == int(rows.seed[7])
    assert seen["teacher"] == "pypi:efficientnet-lite0"


def test_zarr_alone_gives_the_probabilities(small_store: LogitStore, tmp_path: Path) -> None:
    code = f"""
import json, numpy, zarr
group = zarr.open_group({str(small_store.path)!r}, mode="r")
ratios = numpy.exp(group["log_ratio"][0, 0, 3] * group["log_ratio"].attrs["scale_factor"])
kept = 1 - numpy.exp(float(group["residual"][0, 0, 3]))
print(json.dumps((kept * ratios / ratios.sum()).tolist()))
"""
    done = without_packages(OURS, code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert np.allclose(json.loads(done.stdout), small_store.read(0, 0).probabilities()[3], atol=1e-6)
