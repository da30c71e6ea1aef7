"""Replay: what makes a view, for the teacher and for the student alike.

`view` is a pure function: the same image, seed, augmentation and size give the same bytes in any process.
`views` makes many, and mixes pairs of them where the augmentation says so.
"""

from tinyvit.replay.augmentation import NoView, view, views
from tinyvit.replay.digest import probe_slots, view_digest
from tinyvit.replay.mix import PAIRING_BLOCK, Mix, mix_of, partners
from tinyvit.replay.seeds import view_seeds

__all__ = [
    "PAIRING_BLOCK",
    "Mix",
    "NoView",
    "mix_of",
    "partners",
    "probe_slots",
    "view",
    "view_digest",
    "view_seeds",
    "views",
]
