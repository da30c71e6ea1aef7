"""The sets that ImageNet classifiers are judged by, in the layouts they are published in.

Each is a set of labelled images of ImageNet-1k's classes or of 200 of them, on which only those 200 are told apart,
as their authors do. Which classes, and the reassessed labels, are timm's tables.
"""

from __future__ import annotations

import json
import pkgutil
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from tinyvit.classes import match_classes, synsets
from tinyvit.datasets.sources import unsorted
from tinyvit.errors import UserError
from tinyvit.evaluation.images import FolderImages, Labelled, Relabelled, open_images, renumbered
from tinyvit.runtime.progress import Progress

# A file of ImageNet-1k's validation set.
VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})")


@dataclass(frozen=True)
class PublishedSet:
    """A set: its title, where it comes from, how its folder is called, timm's list of its classes.

    `numbered`: its folders are called by class numbers, not by synsets.
    """

    title: str
    source: str
    folders: tuple[str, ...]
    subset: str | None = None
    numbered: bool = False

    @cached_property
    def classes(self) -> list[str]:
        """The synsets that are told apart on it."""
        if self.subset is None:
            return synsets("imagenet-1k")
        return _table(f"imagenet_{self.subset}_synsets.txt").split()


HENDRYCKS = "https://github.com/hendrycks"
SETS = {
    "in1k": PublishedSet(
        "ImageNet-1k validation",
        "https://image-net.org (ILSVRC2012_img_val.tar, sorted into folders by synset)",
        ("val", "validation", "imagenet-val"),
    ),
    "real": PublishedSet(
        "ImageNet ReaL",
        "https://image-net.org: the images of in1k (also in one folder) under their published names, with the labels "
        "of arXiv 2006.07159",
        ("val", "validation", "imagenet-val"),
    ),
    "v2": PublishedSet(
        "ImageNet-V2, matched frequency",
        "https://github.com/modestyachts/ImageNetV2 (imagenetv2-matched-frequency.tar.gz)",
        ("imagenetv2-matched-frequency-format-val", "imagenetv2-matched-frequency"),
        numbered=True,
    ),
    "a": PublishedSet("ImageNet-A", f"{HENDRYCKS}/natural-adv-examples (imagenet-a.tar)", ("imagenet-a",), "a"),
    "r": PublishedSet("ImageNet-R", f"{HENDRYCKS}/imagenet-r (imagenet-r.tar)", ("imagenet-r",), "r"),
    "sketch": PublishedSet(
        "ImageNet-Sketch",
        "https://github.com/HaohanWang/ImageNet-Sketch (ImageNet-Sketch.zip)",
        ("sketch", "imagenet-sketch"),
    ),
    "c": PublishedSet(
        "ImageNet-C",
        f"{HENDRYCKS}/robustness (blur.tar, digital.tar, noise.tar, weather.tar)",
        ("imagenet-c",),
    ),
}


def find_set(name: str, place: str) -> str | None:
    """Where a set is: in the place itself, or in a folder of it that has the set's published name; None: nowhere."""
    path = Path(place)
    if "://" in place or path.is_file():
        return place
    inside = (path / folder for folder in SETS[name].folders)
    return next(
        (str(folder) for folder in inside if folder.is_dir()), place if path.is_dir() and any(path.iterdir()) else None
    )


def any_set(place: str) -> bool:
    """Whether a folder holds any set by its published name."""
    return any(find_set(name, place) not in (None, place) for name in SETS)


def folders() -> list[str]:
    """The names that sets' folders have."""
    return list(dict.fromkeys(folder for about in SETS.values() for folder in about.folders))


def open_set(name: str, place: str, progress: Progress) -> Relabelled:
    """The images of a set, with the set's classes. UserError where it is missing, saying where it comes from.

    Shards without class names are taken to have labels of the set's own numbering: ascending by synset.
    """
    published, found = _known(name), find_set(name, place)
    if found is None:
        raise UserError(missing(name, place))
    # The archive unpacks into one folder; names say enough.
    flat = unsorted(Path(found)) if name == "real" and Path(found).is_dir() else None
    images = (
        FolderImages(tuple(flat.images), None, flat.left_out) if flat and flat.images else open_images(found, progress)
    )
    # Of reassessed labels, names of files decide.
    numbers = None if name == "real" else _numbers(name, images.classes, found)
    labels: Callable[[Labelled], tuple[int, ...] | None] = (
        partial(reassessed, real_labels()) if name == "real" else partial(renumbered, numbers)
    )
    return Relabelled(images, published.classes, labels)


def missing(name: str, place: str | Path) -> str:
    """A line that says that a set is not there, and where to get it."""
    published = SETS[name]
    return f"{published.title} is not at {place}; it comes from {published.source}: unpack it there"


def _known(name: str) -> PublishedSet:
    if name not in SETS:
        raise UserError(f"there is no set {name!r}; choose one of {', '.join(SETS)}")
    return SETS[name]


def _numbers(name: str, classes: Sequence[str] | None, found: str) -> tuple[int, ...] | None:
    """The number that each class of the images has among the set's; None where it is its own."""
    published = SETS[name]
    if classes is None:
        return None
    if published.numbered and all(folder.isdecimal() for folder in classes):
        numbers = tuple(int(folder) for folder in classes)
        if max(numbers) >= len(published.classes):
            raise UserError(f"{found} has a class {max(numbers)}; {published.title} has {len(published.classes)}")
        return numbers
    numbers = tuple(match_classes(classes, published.classes, (found, published.title)))
    if -1 in numbers:
        raise UserError(
            f"{found} has a class {classes[numbers.index(-1)]!r}, which {published.title} has not; "
            f"its folders are called by synset, such as {published.classes[0]}"
        )
    return numbers


def reassessed(real: Sequence[tuple[int, ...]], image: Labelled) -> tuple[int, ...]:
    """What is right of an image of ImageNet-1k's validation set, by its published name (arXiv 2006.07159)."""
    found = VALIDATION.search(image.name)
    number = int(found.group(1)) if found else 0
    if not 1 <= number <= len(real):
        raise UserError(
            f"{image.name} is not called like an image of ImageNet's validation set (ILSVRC2012_val_00000001); "
            f"reassessed labels are known by these names only"
        )
    return real[number - 1]


def real_labels() -> tuple[tuple[int, ...], ...]:
    """The reassessed labels of the validation set's images, in the order of their numbers."""
    return tuple(tuple(labels) for labels in json.loads(_table("imagenet_real_labels.json")))


def _table(name: str) -> str:
    """A table that timm brings along."""
    content = pkgutil.get_data("timm.data", f"_info/{name}")
    assert content is not None
    return content.decode()
