"""What classes are called, and when two names mean one class."""

from __future__ import annotations

import re

from timm.data import ImageNetInfo, infer_imagenet_subset


def same_class(name: str) -> str:
    """What two names of one class have in common: the WordNet id where there is one, else the words."""
    synset = re.match(r"n\d{8}\b", name)
    # A folder's name cannot say T-shirt/top.
    return synset.group() if synset else " ".join(re.findall(r"\w+", name.lower()))


def imagenet_classes(count: int) -> list[str] | None:
    """The synsets of timm's ImageNet list with so many classes, None where there is none."""
    subset = infer_imagenet_subset({"num_classes": count})
    return synsets(subset) if subset else None


def synsets(subset: str) -> list[str]:
    """Those of an ImageNet list of timm's, in its order. AssertionError for an unknown one."""
    return list(ImageNetInfo(subset).label_names())  # type: ignore[no-untyped-call]
