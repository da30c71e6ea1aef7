"""Replay: what makes a view, for the teacher and for the student alike.

`view` is a pure function: the same image, seed, augmentation and size give the same bytes in any process.
`views` makes many, and mixes pairs of them where the augmentation says so.
"""

from tinyvit.views.augmentation import NoView, view, views
from tinyvit.views.digest import probe_slots, view_digest
from tinyvit.views.mix import PAIRING_BLOCK, Mix, mix_of, partners
from tinyvit.views.seeds import view_seeds

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
