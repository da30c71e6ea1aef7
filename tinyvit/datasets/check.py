"""Looking through shards: what is broken, what occurs twice, and which images are of a kind that may surprise."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from tinyvit.config import Decode
from tinyvit.data.index import ShardIndex, index_shards, shard_faults
from tinyvit.data.loader import run_stream
from tinyvit.data.location import ShardLocation
from tinyvit.data.shards import Sample
from tinyvit.errors import UserError
from tinyvit.runtime.progress import Progress
from tinyvit.views.images import BrokenImage, EncodedImage, reading
from tinyvit.views.rgb import UPRIGHT, opened, orientation_of

TOGETHER = 64
EXAMPLES = 5
# Kinds that may surprise, and what becomes of them in a view.
SEE_THROUGH = "shows the colour beneath, or data.background"
KINDS = {
    "16 bits": "scaled to 8 bits",
    "CMYK": "converted to RGB",
    "EXIF rotation": "turned upright, unless data.orientation is ignore",
    "animated": "the first image counts",
    "grey": "the same in all three channels",
    "palette with transparency": SEE_THROUGH,
    "transparency": SEE_THROUGH,
    "same file as another": "both are kept",
}


@dataclass(frozen=True)
class SampleReport:
    """What was seen of one sample; `kinds` are the ways in which it is odd, `fault` why it cannot be used."""

    shard: str
    key: str
    digest: bytes
    label: int | None
    size: tuple[int, int]
    kinds: tuple[str, ...]
    fault: str


@dataclass(frozen=True)
class SampleScan:
    """The stream of looks at every sample of a data set, in batches."""

    index: ShardIndex

    def read(self, worker: int, workers: int) -> Iterator[list[SampleReport]]:
        """The batches of one worker."""
        parts = [
            (number, range(first, min(first + TOGETHER, count)))
            for number, count in enumerate(self.index.counts)
            for first in range(0, count, TOGETHER)
        ]
        for number, slots in parts[worker::workers]:
            shard = self.index.shard(number)
            yield [inspect_sample(shard.name, sample) for sample in shard.read(slots)]


def inspect_sample(shard: str, sample: Sample) -> SampleReport:
    """Decode a sample to its end and say what is odd about it.

    KINDS says what becomes of them. Grey whose values have no white (fractions, 32 bits) is a fault, as is an image
    that cannot be decoded.
    """
    digest = hashlib.blake2b(sample.image, digest_size=16).digest()
    kinds: list[str] = []
    try:
        with reading():
            kinds = list(_kinds(opened(sample.image)))
        image = EncodedImage(sample.image, Decode())
        image.pixels()
        return SampleReport(shard, sample.key, digest, sample.label, image.size, tuple(kinds), "")
    except BrokenImage as fault:
        return SampleReport(shard, sample.key, digest, sample.label, (0, 0), tuple(kinds), str(fault))


def _kinds(image: Image.Image) -> Iterator[str]:
    if image.mode == "CMYK":
        yield "CMYK"
    if image.mode.startswith("I"):
        yield "16 bits"
    if image.has_transparency_data:
        yield "palette with transparency" if image.mode == "P" else "transparency"
    if image.mode in ("L", "1", "LA"):
        yield "grey"
    if getattr(image, "n_frames", 1) > 1:
        yield "animated"
    if orientation_of(image) != UPRIGHT:
        yield "EXIF rotation"


@dataclass
class DatasetReport:
    """What a data set is like: faults that must be mended, kinds of images, sizes, classes."""

    samples: int = 0
    faults: list[str] = field(default_factory=list)
    kinds: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    sides: list[tuple[int, int]] = field(default_factory=list)
    classes: Counter[int | None] = field(default_factory=Counter)

    def as_dict(self, names: list[str] | None) -> dict[str, Any]:
        """JSON-simple; of kinds the count, what becomes of them and a few keys; of sizes extremes and median."""
        sides = np.array(self.sides or [(0, 0)])
        counts = {label: n for label, n in self.classes.items() if label is not None}
        used = list(counts.values()) or [0]
        return {
            "samples": self.samples,
            "faults": self.faults,
            "kinds": {
                kind: {"pictures": len(keys), "are": KINDS[kind], "such as": keys[:EXAMPLES]}
                for kind, keys in sorted(self.kinds.items())
            },
            "width": _spread(sides[:, 0]),
            "height": _spread(sides[:, 1]),
            "classes": {
                "named": len(names or []),
                "used": len(counts),
                "without_label": self.classes[None],
                "fewest": min(used),
                "most": max(used),
            },
        }


def _spread(values: np.ndarray) -> dict[str, int]:
    return {"least": int(values.min()), "median": int(np.median(values)), "most": int(values.max())}


def check_data(location: str, workers: int, progress: Progress) -> dict[str, Any]:
    """Read every shard to its end and decode every image: a `DatasetReport`, faults of shards among its faults."""
    place = ShardLocation(location)
    try:
        index = index_shards(location, progress)
    except UserError as fault:
        # Without an index no sample can be read: the tars' own faults come first.
        return DatasetReport(faults=shard_faults(place, progress) or [str(fault)]).as_dict(None)
    found = DatasetReport()
    first: dict[bytes, str] = {}
    names = place.class_names()
    with progress.task("check", sum(index.counts), "images") as bar:
        for looks in run_stream(SampleScan(index), workers):
            for seen in looks:
                _note(found, seen, first, len(names) if names else None)
            bar.advance(len(looks))
    return found.as_dict(names)


def _note(found: DatasetReport, seen: SampleReport, first: dict[bytes, str], classes: int | None) -> None:
    where = f"{seen.shard}: {seen.key!r}"
    found.samples += 1
    found.classes[seen.label] += 1
    for kind in seen.kinds:
        found.kinds[kind].append(where)
    if seen.fault:
        found.faults.append(f"{where} cannot be decoded ({seen.fault})")
    else:
        found.sides.append(seen.size)
    if (same := first.setdefault(seen.digest, where)) is not where:
        found.kinds["same file as another"].append(f"{where} as {same}")
    if seen.label is not None and classes is not None and not 0 <= seen.label < classes:
        found.faults.append(f"{where} has the label {seen.label}, classes.txt names {classes} classes")
