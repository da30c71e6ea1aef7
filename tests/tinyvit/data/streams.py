"""What tests of the training stream share, in this process and in those that torchrun starts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist

from logitstore import LogitStore
from tinyvit.config import Recipe, load_recipe
from tinyvit.data.batch import Batch
from tinyvit.data.index import index_shards
from tinyvit.data.loader import run_stream
from tinyvit.data.location import resolve_data
from tinyvit.data.render_views import render_views
from tinyvit.data.training_views import Replayed, TrainingViews
from tinyvit.runtime.progress import LogProgress
from tinyvit.views import view_digest


def stream(recipe: Recipe, store: LogitStore | None, stored_epoch: int = 1, **changes: Any) -> TrainingViews:
    """The training views of a recipe's data, of one stored epoch."""
    stored = (Replayed(stored_epoch, store.spec.run_seed, store.location),) if store else ()
    settings: dict[str, Any] = {"batch_size": 50, "epoch": 0, "seed": 0, "num_classes": 1000, "replayed": stored}
    index = index_shards(recipe.data.train, LogProgress())
    return TrainingViews(
        index=index, augment=recipe.label.augment, decode=recipe.data.decode, size=32, **settings | changes
    )


def places(recipe: Recipe, store: LogitStore, epoch: int = 1) -> dict[int, tuple[int, int]]:
    """Where each view of a stored epoch belongs: digest of its pixels -> (shard, slot)."""
    found = dict[int, tuple[int, int]]()
    for shard in index_shards(recipe.data.train, LogProgress()).shards():
        rows = store.read(epoch, shard.number)
        made = render_views(shard, range(shard.samples), rows.seed, recipe.label.augment, recipe.data.decode, 32)
        found |= {view_digest(pixels): (shard.number, slot) for slot, pixels in made.whole().items()}
    return found


def digests(batches: list[Batch]) -> list[list[int]]:
    """The views of batches, by their pixels."""
    return [[view_digest(view) for view in batch.views.numpy()] for batch in batches]


def main(data: str, store: str, out: str, *changes: str) -> None:
    """A rank: read its share with real worker processes, step by step beside the others; rank 0 writes it all down."""
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    recipe = resolve_data(load_recipe("example", json.loads(changes[1])), data)
    views = stream(recipe, LogitStore.open(store), rank=rank, world_size=world, **json.loads(changes[0]))
    mine = []
    for batch in run_stream(views, workers=2):
        # A step of training waits for every rank: one with fewer batches than another would hang here.
        dist.barrier()
        mine += digests([batch])
    found: list[list[list[int]]] = [[] for _ in range(world)]
    dist.all_gather_object(found, mine)
    if rank == 0:
        Path(out).write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
