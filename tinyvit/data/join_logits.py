"""A stage for webdataset's own pipelines: samples, in whatever order they come, joined with a teacher's logits.

    data = wds.WebDataset(urls, shardshuffle=100).compose(join_logits("store", epoch=0, size=224)).shuffle(5000)

It takes samples as webdataset's reader gives them, before anything is decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from logitstore import LogitStore, Rows, StoreError
from tinyvit.config import Augment, Decode
from tinyvit.data.join import key_digest
from tinyvit.data.shards import Sample, sample_of
from tinyvit.errors import UserError
from tinyvit.views import NoView, probe_slots, view, view_digest
from tinyvit.views.images import RULES, BrokenImage, EncodedImage

# Of so many shards at a time the rows are kept: as many as a shuffle of webdataset's may have mixed.
SHARDS = 8

Fields = dict[str, Any]


def join_logits(
    store: str | Path,
    epoch: int,
    size: int,
    handler: Callable[[Exception], bool] | None = None,
) -> Callable[[Iterable[Fields]], Iterator[Fields]]:
    """Adds to each sample its view of a stored epoch, and what the teacher said of it.

    view         [size, size, 3] uint8, made again from the stored seed
    class_id     [K] int64, the best class first
    probability  [K] float32; 0 where there are fewer than K classes
    residual     float32, the mass outside: with the probabilities it sums to one
    seed         of the view

    Each sample must be one of the store's shards, by the name in `__url__`, and of the key there. UserError, or what a
    `handler` such as webdataset's own makes of it, for one that is not, for an image that cannot be decoded, and for a
    view that the teacher said nothing of. UserError too for a store whose views are mixed with those of partners, and
    where views are made otherwise than they were.
    """
    return partial(_joined, str(store), epoch, size, handler)


def _joined(
    location: str, epoch: int, size: int, handler: Callable[[Exception], bool] | None, samples: Iterable[Fields]
) -> Iterator[Fields]:
    # Opened by who reads: connections must not be carried over from another process.
    stored = _Stored(location, epoch, size)
    for fields in samples:
        try:
            joined = stored.join(fields)
        except UserError as fault:
            if handler is None:
                raise
            if not handler(fault):
                return
            continue
        yield joined


class _Stored:
    """One epoch of a store, beside samples of its shards."""

    def __init__(self, location: str, epoch: int, size: int) -> None:
        try:
            self._store = LogitStore.open(location)
            self._shards = {name: number for number, name in enumerate(self._store.table.name)}
        except StoreError as fault:
            raise UserError(str(fault)) from fault
        spec = self._store.spec
        if not 0 <= epoch < spec.epochs:
            raise UserError(
                f"the store {location} has the epochs 0 to {spec.epochs - 1}, not {epoch}; take one of them"
            )
        self._augment, self._epoch, self._size = Augment.model_validate(spec.augment), epoch, size
        if self._augment.mixes:
            raise UserError(
                f"the views of {location} are mixed with those of partners, which a pipeline has not at hand; train on "
                f"it with tinyvit, or label a store with mixup_alpha=0 and cutmix_alpha=0"
            )
        decode = dict(spec.decode)
        if (rules := decode.pop("rules", 1)) != RULES:
            raise UserError(
                f"the images of {location} were read by other rules ({rules}) than now ({RULES}); take the version of "
                f"tinyvit that it was made with"
            )
        self._decode = Decode.model_validate(decode)
        self._slots = lru_cache(SHARDS)(self._slots_of)
        self._rows = lru_cache(SHARDS)(self._rows_of)
        self._probes = lru_cache(SHARDS)(self._probes_of)

    def join(self, fields: Fields) -> Fields:
        """A sample with its view and row."""
        sample, shard = self._placed(fields)
        rows, url = self._rows(shard), fields["__url__"]
        if not rows.valid[sample.slot]:
            raise UserError(f"the store {self._store.location} has no logits for {sample.key!r} of {url}; leave it out")
        try:
            seed = int(rows.seed[sample.slot])
            image = EncodedImage(sample.image, self._decode)
            pixels = view(image, seed, self._augment, self._size)
            self._check_pixels(image, seed, sample, shard, url)
        except (BrokenImage, NoView) as fault:
            raise UserError(f"{url}: no view of {sample.key!r} can be made ({fault}); take it out") from fault
        return {
            **fields,
            "view": pixels,
            "class_id": rows.class_id[sample.slot].astype(np.int64),
            "probability": rows.probability[sample.slot].copy(),
            "residual": rows.residual[sample.slot],
            "seed": seed,
        }

    def _placed(self, fields: Fields) -> tuple[Sample, int]:
        """A sample as it stands in the store's index, and the number of its shard."""
        url, key = str(fields["__url__"]), str(fields["__key__"])
        # A signature goes with a request, and is no part of the name.
        name = url.partition("?")[0].rpartition("/")[2]
        shard = self._shards.get(name)
        if shard is None:
            raise UserError(
                f"the store {self._store.location} has no shard {name}; its shards are {next(iter(self._shards))}, ..."
            )
        slot = self._slots(shard).get(key_digest(key))
        if slot is None:
            raise UserError(
                f"the store {self._store.location} has no sample {key!r} in {name}: the shard was changed after it was "
                f"labelled; restore it"
            )
        members = {suffix: content for suffix, content in fields.items() if not suffix.startswith("__")}
        if not all(isinstance(content, bytes) for content in members.values()):
            raise UserError(f"{url}: {key!r} was decoded already; put join_logits before whatever decodes")
        return sample_of(url, slot, key, members), shard

    def _check_pixels(self, image: EncodedImage, seed: int, sample: Sample, shard: int, url: str) -> None:
        """UserError where a view that the store has a checksum of, as the teacher was shown it, is another one now."""
        if (promised := self._probes(shard).get(sample.slot)) is None:
            return
        size = int(self._store.spec.teacher["input_size"])
        if view_digest(view(image, seed, self._augment, size)) != promised:
            raise UserError(
                f"the view of {sample.key!r} of {url} has other pixels than when {self._store.location} was made: the "
                f"image was changed, or a library; `tinyvit store info {self._store.location}` names the versions"
            )

    def _probes_of(self, shard: int) -> dict[int, int]:
        slots = probe_slots(self._store.samples[shard], self._store.spec.probes)
        return dict(zip(slots, self._rows(shard).view_digest.tolist(), strict=True))

    def _slots_of(self, shard: int) -> dict[int, int]:
        return {int(digest): slot for slot, digest in enumerate(self._store.table.key_digest[shard])}

    def _rows_of(self, shard: int) -> Rows:
        try:
            return self._store.read(self._epoch, shard)
        except StoreError as fault:
            raise UserError(str(fault)) from fault
