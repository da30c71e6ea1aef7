"""Whether the images of a set in COCO's format are those that were annotated, looked at before anything is trained.

The annotation file says how large each image is. An image that the camera noted a turn of has that size either
upright or as it is stored, and so tells what the annotators were shown.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

from tinyvit.data.loader import run_stream
from tinyvit.detection.coco import CocoSet
from tinyvit.errors import UserError
from tinyvit.runtime.distributed import World
from tinyvit.runtime.progress import Progress
from tinyvit.views.images import BrokenImage, reading
from tinyvit.views.rgb import SIDEWAYS, UPRIGHT, opened, orientation_of, stored_size

log = logging.getLogger("tinyvit")

# Images that a process looks at before it tells.
TOGETHER = 64
# Bytes of an image that are read first: the header is in them, but for formats that have it at the end.
HEAD = 1 << 16
# The ways to read an image, as ranks tell each other.
WAYS = ("exif", "ignore")


@dataclass(frozen=True)
class Seen:
    """What was seen of `images`: of those with a noted turn, how many were annotated `upright`, how many as they are
    `stored`, and of how many size does not tell (`either`); how many have `faults`, and the first of these.
    """

    images: int = 0
    upright: int = 0
    stored: int = 0
    either: int = 0
    faults: int = 0
    first: str = ""

    def __add__(self, other: Seen) -> Seen:
        return Seen(
            self.images + other.images,
            self.upright + other.upright,
            self.stored + other.stored,
            self.either + other.either,
            self.faults + other.faults,
            self.first or other.first,
        )


def check_set(coco: CocoSet, masks: bool, measured: bool, world: World, workers: int, progress: Progress) -> CocoSet:
    """The set, read as its annotators were shown it. UserError for one that cannot be trained on to its end, or, where
    it is to be `measured`, be measured on: for images that are missing, broken or of another size than the file says,
    with `masks` also for objects without one. One rank looks for all of them.
    """
    way = 0
    if world.is_main:
        if masks:
            coco.refuse_missing_masks(measured)
        seen = look_at(coco, measured, workers, progress)
        if seen.faults:
            raise UserError(
                f"{coco.annotations}: {seen.faults} of {seen.images} images are not as it says: {seen.first}"
            )
        way = WAYS.index(_told(coco, seen))
    return coco.read_as(coco.decode.model_copy(update={"orientation": WAYS[world.all_reduce_max(way)]}))


def look_at(coco: CocoSet, whole: bool, workers: int, progress: Progress) -> Seen:
    """What is seen of all images of a set: of their headers, or with `whole` of all of them."""
    with progress.task(f"check {coco.folder.name}", len(coco), "images") as bar:
        seen = Seen()
        for part in run_stream(_Look(coco, whole), workers):
            seen += part
            bar.advance(part.images)
    return seen


def _told(coco: CocoSet, seen: Seen) -> str:
    """How the set is read: as the sizes say that it was annotated, else as it was asked for."""
    if not (turned := seen.upright + seen.stored + seen.either):
        return coco.decode.orientation
    mixed = bool(seen.upright) == bool(seen.stored)
    way = coco.decode.orientation if mixed else "exif" if seen.upright else "ignore"
    log.info(
        "%s: %d of %d images have a noted turn; by their sizes %d were annotated upright, %d as they are stored; "
        "%d may be either and are read %s",
        coco.annotations, turned, seen.images, seen.upright, seen.stored, seen.either,
        "upright" if way == "exif" else "as they are stored",
    )  # fmt: skip
    return way


@dataclass(frozen=True)
class _Look:
    """Looks at the images of a set, TOGETHER at a time."""

    coco: CocoSet
    whole: bool

    def read(self, worker: int, workers: int) -> Iterator[Seen]:
        """The share of one worker."""
        count = len(self.coco)
        for first in range(worker * TOGETHER, count, workers * TOGETHER):
            yield reduce(Seen.__add__, map(self._seen, range(first, min(first + TOGETHER, count))))

    def _seen(self, number: int) -> Seen:
        file, said = self.coco.file(number), self.coco.size(number)
        try:
            size, orientation = _header(file)
            upright = size[::-1] if orientation >= SIDEWAYS else size
            if said not in (size, upright):
                raise self.coco.other_size(number, upright)
            if self.whole:
                self.coco.image(number)
        except (OSError, BrokenImage) as fault:
            return Seen(1, faults=1, first=str(self.coco.unreadable(number, fault)))
        except UserError as fault:
            return Seen(1, faults=1, first=str(fault))
        if orientation == UPRIGHT:
            return Seen(1)
        return Seen(1, *((1, 0, 0) if said != size else (0, 1, 0) if said != upright else (0, 0, 1)))


def _header(file: Path) -> tuple[tuple[int, int], int]:
    """Width and height of an image as it is stored, and its orientation by EXIF's numbers."""
    with file.open("rb") as content:
        head = content.read(HEAD)
        try:
            return _header_of(head)
        except BrokenImage:
            return _header_of(head + content.read())


def _header_of(content: bytes) -> tuple[tuple[int, int], int]:
    with reading():
        image = opened(content)
        return stored_size(image), orientation_of(image)
