"""Some labelled images of a data set, and a teacher's logits for them, prepared one way or another."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tinyvit.cache import Wanted
from tinyvit.config import Decode
from tinyvit.data.index import ShardIndex
from tinyvit.evaluation.images import Labelled
from tinyvit.evaluation.views import EvaluationViews
from tinyvit.models.teachers import Teacher
from tinyvit.runtime.progress import Progress
from tinyvit.views.images import BrokenImage, EncodedImage

# Labels are counted in so many samples, a few from each of many places, for shards may be in the order of classes.
TALLIED, TOGETHER = 2048, 16
# Of one label: an order of classes can be learned from some and tried on the others.
MOST_OF_A_LABEL = 8
BATCH = 32


@dataclass(frozen=True)
class Sample:
    """Images by name, encoded, with their labels, sides (width, height) and how they are read; no class names are
    known here.
    """

    images: tuple[Labelled, ...]
    sides: tuple[tuple[int, int], ...]
    decode: Decode

    @property
    def classes(self) -> None:
        """Part of what EvaluationViews reads: labels are used as they are."""

    @property
    def labels(self) -> np.ndarray:
        """[N] int64, as they stand in the shards."""
        return np.array([image.labels[0] for image in self.images if image.labels], np.int64)

    @property
    def counts(self) -> tuple[int, ...]:
        """One part."""
        return (len(self.images),)

    def read(self, part: int, numbers: range) -> list[Labelled]:
        """Some of them."""
        return list(self.images[numbers.start : numbers.stop])

    def wanted(self, _part: int) -> list[Wanted]:
        """Nothing: they are here."""
        return []

    def first(self, count: int) -> Sample:
        """A smaller sample."""
        return Sample(self.images[:count], self.sides[:count], self.decode)

    def views(self, teacher: Teacher, size: int, interpolation: str | None = None) -> Tensor:
        """[N, size, size, 3] uint8: the images' centres, as the teacher's configuration has them for evaluation."""
        config = getattr(teacher.model, "pretrained_cfg", None) or {}
        prepared = EvaluationViews(
            images=self,
            size=size,
            crop_pct=config.get("crop_pct", 0.875),
            crop_mode=config.get("crop_mode", "center"),
            interpolation=interpolation or config.get("interpolation", "bicubic"),
            batch_size=BATCH,
            decode=self.decode,
        )
        return torch.cat([batch.views for batch in prepared.read(0, 1)])


def draw(index: ShardIndex, most: int, seed: int, decode: Decode) -> Sample:
    """At most so many labelled images that can be decoded, of the labels that were met most often, in random order.

    Empty where there are no labels. UserError for shards that are not the indexed ones.
    """
    rng = np.random.default_rng(seed)
    places = [
        (shard, range(first, min(first + TOGETHER, count)))
        for shard, count in enumerate(index.counts)
        for first in range(0, count, TOGETHER)
    ]
    chosen = [places[i] for i in rng.permutation(len(places))[: TALLIED // TOGETHER]]
    by_label: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for shard, slots in chosen:
        for sample in index.shard(shard).read(slots):
            if sample.label is not None and sample.label >= 0:
                by_label[sample.label].append((shard, sample.slot))
    tally = Counter({label: min(len(found), MOST_OF_A_LABEL) for label, found in by_label.items()})
    each = MOST_OF_A_LABEL
    if 0 < len(tally) * each < most:
        # Few classes: more of each.
        each = -(-most // len(tally))
    found = [place for label, _ in tally.most_common() for place in by_label[label][:each]][:most]
    images, sides = [], []
    for shard, slot in rng.permutation(np.array(found, np.int64).reshape(-1, 2)).tolist():
        (sample,) = index.shard(shard).read([slot])
        image = EncodedImage(sample.image, decode)
        try:
            image.pixels()
        except BrokenImage:
            continue
        assert sample.label is not None
        images.append(Labelled(sample.key, sample.image, (sample.label,)))
        sides.append(image.size)
    return Sample(tuple(images), tuple(sides), decode)


def ask(teacher: Teacher, views: Tensor, progress: Progress) -> Tensor:
    """Logits [N, C] float32 on the CPU."""
    logits = []
    with progress.task("teacher", len(views), "images") as bar:
        for batch in torch.split(views, BATCH):
            logits.append(teacher.logits(batch).cpu())
            bar.advance(len(batch))
    return torch.cat(logits)
