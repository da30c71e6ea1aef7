#!/usr/bin/env bash
# xarray 2026.9.0 on a Zarr v3 group (zarr 3.1.6, dask 2026.8.0) with a sharded array and an array of strings, both valid:
#
# - open_zarr(chunks="auto") fails for the whole group because of the one array of strings, which dask cannot size;
#   chunks={} and chunks=None open it, drop_variables leaves the strings out.
# - What open_zarr gives without arguments cannot be written with to_zarr: the encoding that it kept names the shards, the
#   dask chunks are the shards' inner chunks, and two of them would meet in one object. drop_encoding() helps; chunks=None does
#   too, with everything in memory.
#
# Seen: chunks="auto": NotImplementedError, without the strings ok
#       to_zarr: ValueError (would overlap multiple Dask chunks); after drop_encoding ok; with chunks=None ok
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" -q install xarray==2026.9.0 zarr==3.1.6 dask==2026.8.0 numpy==2.4.6
cd "$place"
"$place/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import xarray
import zarr

group = zarr.open_group("valid", mode="w")
group.create_array("value", shape=(4, 6), dtype="uint8", chunks=(1, 6), shards=(2, 6), dimension_names=("epoch", "slot"))
group["value"][:] = np.arange(24).reshape(4, 6)
group.create_array("key", shape=(6,), dtype="str", chunks=(6,), dimension_names=("slot",))
group["key"][:] = np.array([f"picture {n}" for n in range(6)], dtype=object)


def outcome(do):
    try:
        do()
    except Exception as fault:
        return type(fault).__name__
    return "ok"


def opened(**arguments):
    return xarray.open_zarr("valid", consolidated=False, **arguments)


seen = {
    "auto": outcome(lambda: opened(chunks="auto")),
    "auto without strings": outcome(lambda: opened(chunks="auto", drop_variables=["key"])),
    "plain": outcome(lambda: opened().value.load()),
    "written": outcome(lambda: opened().to_zarr("one")),
    "written without encoding": outcome(lambda: opened().drop_encoding().to_zarr("two")),
    "written without dask": outcome(lambda: opened(chunks=None).to_zarr("three")),
}
print(seen)
assert seen == {
    "auto": "NotImplementedError", "auto without strings": "ok", "plain": "ok",
    "written": "ValueError", "written without encoding": "ok", "written without dask": "ok",
}, "it behaves differently now"
PYTHON
