"""What classes are called, and when two names mean one class."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tinyvit.errors import UserError

# timm, which brings torch, is imported where its lists are asked for: whoever only matches names waits for neither.


def same_class(name: str) -> str:
    """What two names of one class have in common: the WordNet id where there is one, else the words."""
    synset = re.match(r"n\d{8}\b", name)
    # A folder's name cannot say T-shirt/top.
    return synset.group() if synset else " ".join(re.findall(r"\w+", name.lower()))


def imagenet_classes(count: int) -> list[str] | None:
    """The synsets of timm's ImageNet list with so many classes, None where there is none."""
    from timm.data import infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": count})
    return synsets(subset) if subset else None


def synsets(subset: str) -> list[str]:
    """Those of an ImageNet list of timm's, in its order. AssertionError for an unknown one."""
    from timm.data import ImageNetInfo

    return list(ImageNetInfo(subset).label_names())  # type: ignore[no-untyped-call]


def named_classes(name: str) -> list[str]:
    """Class names from a file, or those of ImageNet by timm's name of the list, such as imagenet-1k."""
    if Path(name).is_file():
        return read_class_list(Path(name).read_bytes(), name)
    try:
        return synsets(name)
    except AssertionError:
        raise UserError(f"there is no class list {name}; give a file with a name a line, or imagenet-1k") from None


def read_class_list(content: bytes, source: str | Path) -> list[str]:
    """The names in the bytes of a class list, a line each, in class-id order; `source` names it in errors.

    UserError for one that is not UTF-8, and for an empty name. Empty lines at the end are none.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"the class list {source} is not UTF-8; save it as UTF-8, a name a line") from None
    # Not splitlines, which ends a line at ten other characters: all later names would move.
    names = [line.removesuffix("\r") for line in text.rstrip("\r\n").split("\n")]
    for number, name in enumerate(names, 1):
        if not name or "\r" in name:
            what = "has a carriage return in it" if name else "is empty"
            raise UserError(f"the class list {source}: line {number} {what}; write a name a line")
    return names


def class_list(names: Sequence[str]) -> bytes:
    """The bytes of a class list. UserError for a name that cannot be a line of one."""
    for name in names:
        if not _is_line(name):
            raise UserError(f"the class name {name!r} is empty, has a line break or is not UTF-8; rename it")
    return "".join(f"{name}\n" for name in names).encode()


def _is_line(name: str) -> bool:
    """Whether a name is read as it was written. The file system has names that are not UTF-8 as well."""
    try:
        return read_class_list(name.encode(), name) == [name]
    except ValueError:
        return False


def shared_classes(one: Sequence[str] | None, two: Sequence[str] | None) -> bool:
    """Whether two lists of classes are known to have some in common."""
    return one is not None and two is not None and not {*map(same_class, one)}.isdisjoint(map(same_class, two))


def columns(subject: Sequence[str] | None, data: Sequence[str] | None) -> list[int] | None:
    """Which of a model's classes each class of the data is, -1 for one that the model does not have.

    None where they are the same, or not known on one side. UserError where they have none in common.
    """
    # Compared before they are looked up: ImageNet has two classes that are called crane.
    if subject is None or data is None or [*map(same_class, subject)] == [*map(same_class, data)]:
        return None
    place = {same_class(name): number for number, name in enumerate(subject)}
    found = [place.get(same_class(name), -1) for name in data]
    if max(found) < 0:
        raise UserError(
            f"the model tells apart {subject[0]!r} and {len(subject) - 1} others, the data has {data[0]!r} and "
            f"{len(data) - 1} others, none in common; give data of its classes, or name them with --classes"
        )
    return found
