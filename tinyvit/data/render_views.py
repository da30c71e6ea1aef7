"""Views of samples of one shard: the one way from bytes in a tar to pixels, for both stages and every check."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyvit.config import Augment, Decode
from tinyvit.data.join import IndexedShard
from tinyvit.data.shards import Sample
from tinyvit.errors import UserError
from tinyvit.views import NoView, mix_of, partners, views
from tinyvit.views.images import BrokenImage, EncodedImage

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class ViewBatch:
    """Views of some slots of a shard: [H, W, 3] uint8 by slot, or why there is none.

    `samples` are those of the slots and of their partners.
    """

    shard: IndexedShard
    samples: dict[int, Sample]
    pixels: dict[int, Pixels | BrokenImage]

    def whole(self) -> dict[int, Pixels]:
        """The pixels of all slots. UserError for the first view that could not be made."""
        found: dict[int, Pixels] = {}
        for slot, made in self.pixels.items():
            if isinstance(made, BrokenImage):
                raise UserError(
                    f"{self.shard.path}: the image of {self.samples[made.slot].key!r} cannot be decoded ({made}); "
                    f"mend the shard, or leave such images out with data.broken=skip"
                )
            found[slot] = made
        return found

    def label(
        self, slot: int, partner: int, seeds: NDArray[np.uint32], augment: Augment
    ) -> tuple[list[int], list[float]]:
        """The label of a view and what it counts; of a mixed one also the partner's, the larger share first.

        UserError where there is none.
        """
        mix = mix_of(int(seeds[slot]), int(seeds[partner]), augment) if partner != slot else None
        own, other = self._label(slot), self._label(partner) if mix else None
        if mix is None or other is None or own == other:
            return [own], [1.0]
        shares = sorted([(mix.share, own), (1 - mix.share, other)], reverse=True)
        return [label for _, label in shares], [share for share, _ in shares]

    def _label(self, slot: int) -> int:
        label = self.samples[slot].label
        if label is None or label < 0:
            raise UserError(
                f"{self.shard.path}: {self.samples[slot].key!r} (slot {slot}) has no label (.cls), "
                f"and is to be learned by it"
            )
        return label


class DecodedSamples:
    """Some samples of a shard, each decoded once, for views of several epochs."""

    def __init__(self, shard: IndexedShard, slots: Iterable[int], decode: Decode) -> None:
        wanted = sorted(set(slots))
        self.shard = shard
        self.samples = dict(zip(wanted, shard.read(wanted), strict=True))
        self._images = {slot: EncodedImage(sample.image, decode) for slot, sample in self.samples.items()}

    def views(
        self, slots: Sequence[int], seeds: NDArray[np.uint32], partner: NDArray[np.intp], augment: Augment, size: int
    ) -> ViewBatch:
        """The views of one epoch; the images must be those of `slots` and of their partners.

        UserError for one that the augmentation cannot cope with.
        """
        try:
            return ViewBatch(self.shard, self.samples, views(self._images, slots, seeds, partner, augment, size))
        except NoView as fault:
            key, cause = self.samples[fault.slot].key, fault.__cause__
            raise UserError(
                f"{self.shard.path}: no view of {key!r} can be made from the seed {fault.seed} "
                f"({type(cause).__name__}: {cause}); take the image out, or change the augmentation"
            ) from cause


def render_views(
    shard: IndexedShard,
    slots: Sequence[int],
    seeds: NDArray[np.uint32],
    augment: Augment,
    decode: Decode,
    size: int,
    partner: NDArray[np.intp] | None = None,
) -> ViewBatch:
    """Views of some slots of an epoch, whose seeds are [S] of the whole shard; `partner` where it is known already."""
    mates = partners(seeds, augment) if partner is None else partner
    images = DecodedSamples(shard, [*slots, *mates[list(slots)].tolist()], decode)
    return images.views(slots, seeds, mates, augment, size)
