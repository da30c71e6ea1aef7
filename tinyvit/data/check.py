"""Looking through shards: what is broken, what occurs twice, and which pictures are of a kind that may surprise."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from tinyvit.data.images import FAULTS, BrokenImage, EncodedImage
from tinyvit.data.index import ShardIndex, index_shards, shard_faults
from tinyvit.data.loader import run_stream
from tinyvit.data.place import Place
from tinyvit.data.shards import Sample
from tinyvit.errors import UserError
from tinyvit.progress import Progress

TOGETHER = 64
# EXIF's tag of how the camera was held; 1 is upright.
ORIENTATION = 0x0112
EXAMPLES = 5


@dataclass(frozen=True)
class Look:
    """What was seen of one sample; `kinds` are the ways in which it is odd, `fault` why it cannot be used."""

    shard: str
    key: str
    digest: bytes
    label: int | None
    size: tuple[int, int]
    kinds: tuple[str, ...]
    fault: str


@dataclass(frozen=True)
class Looks:
    """The stream of looks at every sample of a data set, in batches."""

    index: ShardIndex

    def read(self, worker: int, workers: int) -> Iterator[list[Look]]:
        """The batches of one worker."""
        parts = [
            (number, range(first, min(first + TOGETHER, count)))
            for number, count in enumerate(self.index.counts)
            for first in range(0, count, TOGETHER)
        ]
        for number, slots in parts[worker::workers]:
            shard = self.index.shard(number)
            yield [look(shard.name, sample) for sample in shard.read(slots)]


def look(shard: str, sample: Sample) -> Look:
    """Decode a sample to its end and say what is odd about it.

    A view is made of the picture as RGB: colours of CMYK are converted, 16 bits cut to 8, what is transparent gets
    the colour beneath, of an animation the first picture counts, and the note how a camera was held is not obeyed.
    """
    digest = hashlib.blake2b(sample.image, digest_size=16).digest()
    kinds: list[str] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(sample.image)) as image:
                kinds = list(_kinds(image))
        picture = EncodedImage(sample.image)
        picture.pixels()
        return Look(shard, sample.key, digest, sample.label, picture.size, tuple(kinds), "")
    except (BrokenImage, *FAULTS) as fault:
        return Look(shard, sample.key, digest, sample.label, (0, 0), tuple(kinds), str(fault) or type(fault).__name__)


def _kinds(image: Image.Image) -> Iterator[str]:
    if image.mode == "CMYK":
        yield "CMYK"
    if image.mode.startswith(("I", "F")):
        yield "16 bits or more"
    if image.mode == "P" and "transparency" in image.info:
        yield "palette with transparency"
    elif "A" in image.getbands() or "transparency" in image.info:
        yield "transparency"
    if image.mode in ("L", "1", "LA"):
        yield "grey"
    if getattr(image, "n_frames", 1) > 1:
        yield "animated"
    if image.getexif().get(ORIENTATION, 1) != 1:
        yield "EXIF rotation"


@dataclass
class Findings:
    """What a data set is like: faults that must be mended, kinds of pictures, sizes, classes."""

    samples: int = 0
    faults: list[str] = field(default_factory=list)
    kinds: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    sides: list[tuple[int, int]] = field(default_factory=list)
    classes: Counter[int | None] = field(default_factory=Counter)

    def as_dict(self, names: list[str] | None) -> dict[str, Any]:
        """JSON-simple; of kinds the count and a few keys, of sizes the extremes and the median."""
        sides = np.array(self.sides or [(0, 0)])
        counts = {label: n for label, n in self.classes.items() if label is not None}
        used = list(counts.values()) or [0]
        return {
            "samples": self.samples,
            "faults": self.faults,
            "kinds": {
                kind: {"pictures": len(keys), "such as": keys[:EXAMPLES]} for kind, keys in sorted(self.kinds.items())
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
    """Read every shard to its end and decode every picture; see `Findings`. Faults of shards are among its faults."""
    place = Place(location)
    try:
        index = index_shards(location, progress)
    except UserError as fault:
        # Without an index no sample can be read: the tars' own faults come first.
        return Findings(faults=shard_faults(place, progress) or [str(fault)]).as_dict(None)
    found = Findings()
    first: dict[bytes, str] = {}
    names = place.class_names()
    with progress.task("check", sum(index.counts), "pictures") as bar:
        for looks in run_stream(Looks(index), workers):
            for seen in looks:
                _note(found, seen, first, len(names) if names else None)
            bar.advance(len(looks))
    return found.as_dict(names)


def _note(found: Findings, seen: Look, first: dict[bytes, str], classes: int | None) -> None:
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
