"""The arrays of a store: names, dimensions, chunks and codecs. The one place that decides bytes on disk.

Unit arrays keep one Zarr shard object for each unit, so that one owner writes it whole, with one inner chunk
an epoch, so that a reader fetches a single epoch by byte range. Every chunk ends in a CRC-32C: a compressor
alone decodes a flipped bit without a word.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import zarr
from zarr.buffer import default_buffer_prototype
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, TransposeCodec, ZstdCodec
from zarr.storage import MemoryStore

from logitstore.chunks import BLOCK_BYTES, LEVEL, UnitArray
from logitstore.spec import ShardTable, UnitSpec, digest_of

# Key digests of this many data shards share an object, so that the index of 2,048 shards is 32 objects.
KEY_GROUP = 64

# The keys of a shard by slot.
Keys = Callable[[int], Sequence[str]]


def new_objects(
    spec: UnitSpec,
    arrays: Iterable[UnitArray],
    table: ShardTable,
    class_names: Sequence[str] | None,
    keys: Keys | None,
) -> dict[str, bytes]:
    """Every object of an empty store whose units consist of these arrays, by key; the group's document, which makes
    it one, last.
    """
    memory: dict[str, Any] = {}
    group = zarr.create_group(MemoryStore(memory))
    _create_unit_arrays(group, spec, arrays, len(table))
    _create_index(group, table)
    if keys is not None:
        _create_keys(group, table, keys)
    if class_names is not None:
        names = np.array(class_names, dtype=object)
        _create_whole(group, "class_name", "str", ("class",), names)
    documents = {name: array_digest(memory[f"{name}/zarr.json"].to_bytes()) for name in sorted(group)}
    group.attrs.put(
        {
            **spec.to_attributes(
                table_digest=table.digest(),
                class_name_digest=digest_of(list(class_names or [])),
                document_digests=documents,
            ),
            "sealed": "",
            "seal_digest": "",
        }
    )
    objects = {key: value.to_bytes() for key, value in memory.items()}
    objects["zarr.json"] = objects.pop("zarr.json")
    return objects


def array_digest(document: bytes) -> str:
    """SHA-256 of an array's zarr.json as the JSON that it is."""
    return digest_of(json.loads(document))


def read_array(objects: dict[str, bytes], name: str, where: int | slice = slice(None)) -> np.ndarray[Any, Any]:
    """The values of an array, or of some of its rows, whose objects are at hand.

    ValueError or RuntimeError where one is damaged.
    """
    buffer = default_buffer_prototype().buffer
    store = MemoryStore({key: buffer.from_bytes(data) for key, data in objects.items()})
    values: np.ndarray[Any, Any] = np.asarray(zarr.open_array(store, path=name, mode="r")[where])
    return values


def _create_unit_arrays(group: zarr.Group, spec: UnitSpec, arrays: Iterable[UnitArray], shards: int) -> None:
    for array in arrays:
        chunk = (1, 1, *array.shape)
        group.create_array(
            array.name,
            shape=(spec.epochs, shards, *array.shape),
            dtype=array.dtype,
            chunks=chunk,
            shards=(spec.epochs_per_unit, *chunk[1:]),
            filters=[TransposeCodec(order=(0, 1, 3, 2))] if array.entry_first else [],
            serializer=BytesCodec(endian="little"),
            compressors=[
                BloscCodec(
                    typesize=array.dtype.itemsize,
                    cname="zstd",
                    clevel=LEVEL,
                    shuffle="shuffle" if array.dtype.itemsize > 1 else "noshuffle",
                    blocksize=BLOCK_BYTES,
                ),
                Crc32cCodec(),
            ],
            fill_value=0,
            dimension_names=("epoch", "shard", *array.dims),
            attributes={"long_name": array.about},
        )
    group.create_array(
        "committed",
        shape=(spec.epochs, shards),
        dtype="uint32",
        chunks=(spec.epochs_per_unit, 1),
        compressors=[Crc32cCodec()],
        fill_value=0,
        dimension_names=("epoch", "shard"),
        attributes={"long_name": "checksum of an epoch of a unit; 0: not there"},
    )


def _create_index(group: zarr.Group, table: ShardTable) -> None:
    for name, dtype, values in (
        ("shard_name", "str", np.array(table.name, dtype=object)),
        ("shard_samples", "uint32", np.array(table.samples, dtype=np.uint32)),
        ("shard_sha256", "str", np.array(table.sha256, dtype=object)),
    ):
        _create_whole(group, name, dtype, ("shard",), values)
    padded = np.zeros((len(table), table.slots), np.uint64)
    for row, keys in zip(padded, table.key_digest, strict=True):
        row[: len(keys)] = keys
    digests = group.create_array(
        "key_digest",
        shape=padded.shape,
        dtype="uint64",
        chunks=(min(KEY_GROUP, len(table)), table.slots),
        compressors=[ZstdCodec(level=1), Crc32cCodec()],
        fill_value=0,
        dimension_names=("shard", "slot"),
        attributes={"long_name": "BLAKE2b-64 of the sample's key"},
        config={"write_empty_chunks": True},
    )
    digests[:] = padded


def _create_keys(group: zarr.Group, table: ShardTable, keys: Keys) -> None:
    array = group.create_array(
        "key",
        shape=(len(table), table.slots),
        dtype="str",
        chunks=(min(KEY_GROUP, len(table)), table.slots),
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
        fill_value="",
        dimension_names=("shard", "slot"),
        config={"write_empty_chunks": True},
    )
    for first in range(0, len(table), KEY_GROUP):
        shards = range(first, min(first + KEY_GROUP, len(table)))
        padded = np.full((len(shards), table.slots), "", dtype=object)
        for row, shard in zip(padded, shards, strict=True):
            row[: table.samples[shard]] = keys(shard)
        array[first : first + KEY_GROUP] = padded


def _create_whole(
    group: zarr.Group, name: str, dtype: str, dims: tuple[str, ...], values: np.ndarray[Any, Any]
) -> None:
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=dtype,
        chunks=values.shape,
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
        fill_value="" if dtype == "str" else 0,
        dimension_names=dims,
        config={"write_empty_chunks": True},
    )
    array[:] = values
