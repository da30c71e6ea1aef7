"""What is far away, kept near: whole shards and rows in a folder of bounded size that processes and runs share."""

from tinyvit.cache.ahead import Ahead, Wanted
from tinyvit.cache.folder import CacheFolder, open_cache
from tinyvit.cache.rows import CachedRows
from tinyvit.cache.shards import CachedShard, Place

__all__ = ["Ahead", "CacheFolder", "CachedRows", "CachedShard", "Place", "Wanted", "open_cache"]
