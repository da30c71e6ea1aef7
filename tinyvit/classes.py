"""What classes are called, and when two names mean one class.

There is one comparison, `match_classes`, wherever names meet: labels and a teacher's logits, a network and the
images that it is measured on, an old classifier and a new one. docs/classes-and-images.md states its rules.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tinyvit.errors import UserError

# timm, which brings torch, is imported where its lists are asked for: whoever only matches names waits for neither.

Names = Sequence[str] | None


def match_classes(
    names: Sequence[str], among: Sequence[str], whose: tuple[str, str] = ("one", "the other")
) -> list[int]:
    """The place in `among` of each of these classes, -1 for one that is not there.

    WordNet ids count where there are any, else names to the letter, else their normal form; the k-th of several classes
    of one name is the k-th of the other list. UserError, in which the lists are `whose`, where that is not to be told:
    two cranes in one list and one in the other.
    """
    found = [-1] * len(names)
    for key in (identity, normal_form):
        taken = set(found)
        rest = _by_key(key, names, (n for n, place in enumerate(found) if place < 0))
        free = _by_key(key, among, (n for n in range(len(among)) if n not in taken))
        for word, ours in rest.items():
            theirs = free.get(word, [])
            # Different names of one normal form, as `a/b` and `a_b`, are in no order that means anything.
            alike = len({names[n] for n in ours}) == len({among[n] for n in theirs}) == 1
            if len(ours) == len(theirs) and (alike or len(ours) == 1 or key is identity):
                for n, place in zip(ours, theirs, strict=True):
                    found[n] = place
            elif theirs:
                raise UserError(
                    f"{names[ours[0]]!r} is {len(ours)} of the classes of {whose[0]} and {len(theirs)} of {whose[1]}, "
                    f"so which is which cannot be told; give each a name of its own"
                )
    return found


def _by_key(key: Callable[[str], str], names: Sequence[str], numbers: Iterable[int]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for number in numbers:
        found.setdefault(key(names[number]), []).append(number)
    return found


def identity(name: str) -> str:
    """The WordNet id that a name begins with, where there is one, else the name."""
    synset = re.match(r"n\d{8}(?![0-9A-Za-z])", name)
    return synset.group() if synset else name


def normal_form(name: str) -> str:
    """A name without what differs where it is written by hand or had to be a folder: case, composed letters, and what
    stands for a space (`_`, `/`, `\\`, `:`, a hyphen within words). Signs that tell names apart stay: `C++` is not
    `C#`, `-1` not `1`.
    """
    text = unicodedata.normalize("NFC", identity(name)).casefold()
    words = re.sub(r"[\s_/\\:]|(?<=\w)-(?=\w)", " ", text).split()
    return " ".join(words) or text


def class_index_map(data: Names, model: Names) -> list[int] | None:
    """Which of a model's classes each class of the data is, -1 for one that the model does not have.

    None where they are not known on one side. UserError where they have none in common.
    """
    if model is None or data is None:
        return None
    found = match_classes(data, model, ("the data", "the model"))
    if max(found, default=-1) < 0:
        raise UserError(
            f"the model tells apart {model[0]!r} and {len(model) - 1} others, the data has {data[0]!r} and "
            f"{len(data) - 1} others, none in common; give data of its classes; what numbers mean is said by a list of "
            f"names: classes.txt, or --classes of `tinyvit evaluate`"
        )
    return found


def shared_classes(one: Names, two: Names) -> bool:
    """Whether two lists of classes are known to have some in common."""
    return one is not None and two is not None and max(match_classes(one, two), default=-1) >= 0


def class_order(names: Iterable[str]) -> list[str]:
    """Names of folders in the order of their labels: by value where all are decimal numbers, else as words."""
    found = sorted(set(names))
    return sorted(found, key=int) if all(name.isdecimal() for name in found) else found


def imagenet_classes(count: int) -> list[str] | None:
    """The synsets of timm's ImageNet list with so many classes, None where there is none."""
    from timm.data import infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": count})
    return synsets(subset) if subset else None


def synsets(subset: str) -> list[str]:
    """Those of an ImageNet list of timm's, in its order. AssertionError for an unknown one."""
    from timm.data import ImageNetInfo

    return list(ImageNetInfo(subset).label_names())


def named_classes(name: str) -> list[str]:
    """Class names from a file, or those of ImageNet by timm's name of the list, such as imagenet-1k."""
    if Path(name).is_file():
        return load_class_list(Path(name))
    try:
        return synsets(name)
    except AssertionError as fault:
        raise UserError(f"there is no class list {name}; give a file with a name a line, or imagenet-1k") from fault


def load_class_list(file: Path) -> list[str]:
    """The names in a file; see `read_class_list`. UserError when it cannot be read."""
    try:
        return read_class_list(file.read_bytes(), file)
    except OSError as fault:
        raise UserError(f"the class list {file} cannot be read: {fault.strerror}") from fault


def read_class_list(content: bytes, source: str | Path) -> list[str]:
    """The names in the bytes of a class list, a line each, in class-id order; `source` names it in errors.

    UserError for one that is not UTF-8, and for an empty name. Empty lines at the end are none.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise UserError(f"the class list {source} is not UTF-8; save it as UTF-8, a name a line") from fault
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
