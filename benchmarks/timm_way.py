"""timm's own way from WebDataset shards to training batches, with the same augmentation as ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from timm.data import create_dataset, create_loader

from tinyvit.config import Augment
from tinyvit.data.index import ShardIndex


def link_shards(index: ShardIndex, folder: Path) -> None:
    """Local shards in another folder as well."""
    assert index.place.path is not None
    for name in index.table.name:
        if not (folder / name).exists():
            (folder / name).symlink_to((index.place.path / name).resolve())


def describe_for_timm(index: ShardIndex, folder: Path) -> None:
    """Make local shards a data set of timm's: linked into a folder, with the description that its reader wants."""
    link_shards(index, folder)
    split = {
        "name": "train",
        "num_samples": sum(index.counts),
        "filenames": list(index.table.name),
        "shard_lengths": list(index.counts),
    }
    (folder / "_info.json").write_text(json.dumps({"splits": {"train": split}}))


def timm_loader(
    folder: Path, augment: Augment, size: int, batch_size: int, workers: int, seed: int, prefetcher: bool
) -> Any:
    """timm's loader; its prefetcher leaves normalising and erasing to the device, as ours leaves normalising.

    Its data processes live on from epoch to epoch, as is its default.
    """
    dataset = create_dataset(
        "wds/images", root=str(folder), split="train", is_training=True, batch_size=batch_size, seed=seed
    )
    return create_loader(
        dataset,
        input_size=(3, size, size),
        batch_size=batch_size,
        is_training=True,
        use_prefetcher=prefetcher,
        **timm_settings(augment),
        num_workers=workers,
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        persistent_workers=workers > 0,
    )


def timm_settings(augment: Augment) -> dict[str, Any]:
    """The augmentation in timm's words."""
    return {
        "scale": augment.scale,
        "ratio": augment.ratio,
        "hflip": augment.hflip,
        "vflip": augment.vflip,
        "color_jitter": augment.color_jitter,
        "auto_augment": augment.auto_augment,
        "interpolation": augment.interpolation,
        "re_prob": augment.erase_prob,
        "re_mode": augment.erase_mode,
        "re_count": augment.erase_count,
    }
