"""`tinyvit data index`."""

from __future__ import annotations

from tinyvit.cli.options import AsJson, Shards
from tinyvit.cli.output import show
from tinyvit.data.index import INDEX_NAME, index_shards
from tinyvit.runtime.progress import default_progress


def index(
    data: Shards,
    as_json: AsJson = False,
) -> None:
    """Count the samples, check every tar to its end, take digests; kept beside the shards as index.json."""
    index = index_shards(data, default_progress())
    table = index.table
    result = {
        "shards": len(table),
        "samples": sum(table.samples),
        "fewest_in_a_shard": min(table.samples),
        "most_in_a_shard": table.slots,
        "index": str(index.folder / INDEX_NAME),
    }
    show(result, as_json, data)
