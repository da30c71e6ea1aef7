"""Looking into folders: every file once, in the order of names alone, links followed, and what is left out counted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from PIL import Image

from tinyvit.data.shards import IMAGE_SUFFIXES
from tinyvit.errors import UserError

# What systems and programs leave in folders and archives, beside all names that begin with a dot.
LITTER = ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini")
HIDDEN = "hidden"
# Kinds of what is left out that are named.
NAMED = 8
SORTED = "put those of each class into a folder with its name (all into one where there are no classes)"


def hidden(path: str) -> bool:
    """Whether a name, or any part of a path in an archive, is one that people do not see."""
    parts = path.replace("\\", "/").split("/")
    return any(part in LITTER or (part.startswith(".") and part.strip(".")) for part in parts)


def entries(folder: Path, left_out: Counter[str]) -> list[os.DirEntry[str]]:
    """What can be seen in a folder, by name. UserError where it cannot be read."""
    try:
        with os.scandir(folder) as found:
            listed = sorted(found, key=lambda entry: entry.name)
    except OSError as fault:
        raise UserError(
            f"the folder {folder} cannot be read: {fault.strerror}; mend its rights or leave it out"
        ) from fault
    seen = [entry for entry in listed if not hidden(entry.name)]
    left_out[HIDDEN] += len(listed) - len(seen)
    return seen


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one."""
    # A link to itself is an error to DirEntry.
    return Path(entry.path).is_dir() if entry.is_symlink() else entry.is_dir()


def is_file(entry: os.DirEntry[str], left_out: Counter[str]) -> bool:
    """Whether it is a plain file, or a link to one; else it is counted."""
    if entry.is_symlink() and not Path(entry.path).is_file():
        left_out["broken link"] += 1
        return False
    if not entry.is_file():
        left_out["no plain file"] += 1
        return False
    return True


def files(folder: Path, left_out: Counter[str], above: tuple[tuple[int, int], ...] = ()) -> Iterator[Path]:
    """The files in a folder and its sub-folders; links are followed but for those to a folder that they are in.

    `above` are the folders that it is in, by `identity`.
    """
    here = identity(folder)
    if here in above:
        left_out["link to a folder above"] += 1
        return
    for entry in entries(folder, left_out):
        if is_folder(entry):
            yield from files(Path(entry.path), left_out, (*above, here))
        elif is_file(entry, left_out):
            yield Path(entry.path)


def identity(folder: Path) -> tuple[int, int]:
    """What tells a folder from all others of this machine."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def is_image(name: str) -> bool:
    """Whether a file is an image, by its suffix, that the Pillow which is installed decodes."""
    suffix = suffix_of(name)
    return suffix[1:] in IMAGE_SUFFIXES and suffix in Image.registered_extensions()


def suffix_of(name: str) -> str:
    """What follows the last dot of a file's name, with the dot, in small letters; nothing where there is none."""
    _, dot, suffix = name.rpartition("/")[2].rpartition(".")
    return dot + suffix.lower() if dot else ""


def told(left_out: Mapping[str, int]) -> str:
    """What was left out in a few words, the most first."""
    most = sorted(left_out.items(), key=lambda item: -item[1])
    more = [f"{sum(count for _, count in most[NAMED:]):,} others"] if len(most) > NAMED else []
    return ", ".join([*(f"{count:,} {name}" for name, count in most[:NAMED]), *more])


def no_shards(folder: Path) -> str:
    """What a folder has in place of shards, and what to do, as the end of a sentence."""
    seen = entries(folder, Counter())
    inside = [entry for entry in seen if is_folder(entry)]
    shards = [
        entry.path for entry in inside if any(one.name.endswith(".tar") for one in entries(Path(entry.path), Counter()))
    ]
    images = sum(is_image(entry.name) for entry in seen)
    # A part of a data set is packed with the others, so that all have the same classes.
    whole = folder.parent if folder.name in ("train", "val") else folder
    pack = f"pack them with `tinyvit data make {whole} OUT`, and give OUT"
    if shards:
        return f", but folders with some; give one of them: {', '.join(shards[:2])}"
    if inside:
        return f", but {len(inside):,} folders, such as {inside[0].name}; if each is a class of images, {pack}"
    if images:
        return f", but {images:,} images without classes; {SORTED}, then {pack}"
    return "; make some with `tinyvit data make`"
