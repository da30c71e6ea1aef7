"""The arrays of a store: names, dimensions, chunks and codecs. The one place that decides bytes on disk.

Unit arrays keep one Zarr shard object for each unit, so that one owner writes it whole, with one inner chunk
an epoch, so that a reader fetches a single epoch by byte range. Every chunk ends in a CRC-32C: zstd alone
decodes a flipped bit without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.array_spec import ArrayConfigParams

from storage.encoding import ENCODINGS
from storage.spec import ShardTable, StoreSpec

# Absent and all-zero must differ: an all-zero chunk is written like any other.
WRITE_CONFIG: ArrayConfigParams = {"write_empty_chunks": True}

UNIT_ARRAYS = ("class_id", "log_ratio", "residual", "seed", "valid", "view_digest")

# Key digests of this many data shards share an object, so that the index of 2,048 shards is 32 files.
KEY_GROUP = 64


def class_id_dtype(num_classes: int) -> str:
    """The smallest unsigned type that holds every class id."""
    return "uint16" if num_classes <= np.iinfo(np.uint16).max + 1 else "uint32"


def create_arrays(group: zarr.Group, spec: StoreSpec, table: ShardTable, class_names: Sequence[str] | None) -> None:
    """Create every array of a store and fill in the data set's index and the names of the classes."""
    encoding = ENCODINGS[spec.encoding]
    views = (spec.epochs, len(table), table.slots)
    unit_dims = ("epoch", "shard", "slot")
    scale = {"scale_factor": encoding.scale, "add_offset": 0.0, "units": "nat"}
    for name, dtype, shape, dims, attributes in (
        (
            "class_id",
            class_id_dtype(spec.num_classes),
            (*views, spec.top_k),
            (*unit_dims, "rank"),
            {"long_name": "class of each rank, best first"},
        ),
        (
            "log_ratio",
            encoding.dtype,
            (*views, spec.top_k),
            (*unit_dims, "rank"),
            {"long_name": "log(p_k / p_1)", **scale},
        ),
        (
            "residual",
            "float16",
            views,
            unit_dims,
            {"long_name": "log of the probability mass outside the ranks", "units": "nat"},
        ),
        ("seed", "uint32", views, unit_dims, {"long_name": "seed that remakes the view"}),
        ("valid", "bool", views, unit_dims, {"long_name": "the row holds a teacher's answer"}),
        (
            "view_digest",
            "uint32",
            (spec.epochs, len(table), spec.probes),
            ("epoch", "shard", "probe"),
            {"long_name": "CRC-32 of the pixels of probe views before normalisation"},
        ),
    ):
        chunk = (1, 1, *shape[2:])
        _create(group, name, dtype, shape, chunk, dims, (spec.epochs_per_unit, *chunk[1:]), attributes)
    _create(group, "committed", "uint32", (spec.blocks, len(table)), (1, 1), ("block", "shard"))
    _create_index(group, table)
    if class_names is not None:
        names = np.array(class_names, dtype=object)
        _create(group, "class_name", "str", names.shape, names.shape, ("class",))[:] = names


def _create_index(group: zarr.Group, table: ShardTable) -> None:
    count = len(table)
    for name, dtype, values in (
        ("shard_name", "str", np.array(table.name, dtype=object)),
        ("shard_samples", "uint32", np.array(table.samples, dtype=np.uint32)),
        ("shard_sha256", "str", np.array(table.sha256, dtype=object)),
    ):
        _create(group, name, dtype, (count,), (count,), ("shard",))[:] = values
    group_size = min(KEY_GROUP, count)
    digests = _create(
        group,
        "key_digest",
        "uint64",
        (count, table.slots),
        (1, table.slots),
        ("shard", "slot"),
        (group_size, table.slots),
        {"long_name": "BLAKE2b-64 of the sample's key"},
    )
    for first in range(0, count, group_size):
        keys = table.key_digest[first : first + group_size]
        padded = np.zeros((len(keys), table.slots), np.uint64)
        for row, values in zip(padded, keys, strict=True):
            row[: len(values)] = values
        digests[first : first + len(keys)] = padded


def _create(
    group: zarr.Group,
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dims: tuple[str, ...],
    shards: tuple[int, ...] | None = None,
    attributes: dict[str, Any] | None = None,
) -> zarr.Array[Any]:
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=chunks,
        shards=shards,
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
        fill_value="" if dtype == "str" else 0,
        dimension_names=dims,
        attributes=attributes or {},
        config=WRITE_CONFIG,
    )
