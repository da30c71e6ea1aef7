"""Seeds of views, and the generators that a view draws from."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

# The global generators belong to the process: two threads must not make views at once.
_GENERATORS = threading.RLock()

# Seeds of one shard: epoch in the upper bits, slot in the lower, so that no two views of an image share one.
SLOT_BITS = 20


def view_seeds(run_seed: int, shard: str, epoch: int, samples: int) -> NDArray[np.uint32]:
    """[samples] uint32: the seeds of one epoch of one shard.

    Consecutive within an epoch, so that a store compresses them to almost nothing; `view` hashes a seed before
    it uses it. Bound to the shard's name, so that adding shards to a data set changes no other shard's views.
    """
    digest = hashlib.blake2b(f"{run_seed}/{shard}".encode(), digest_size=4).digest()
    first = int.from_bytes(digest, "little") + (epoch << SLOT_BITS)
    return ((first + np.arange(samples, dtype=np.uint64)) & 0xFFFFFFFF).astype(np.uint32)


@contextmanager
def own_generators() -> Iterator[None]:
    """Use the global generators of random, numpy and torch, which timm draws from, and put them back afterwards."""
    with _GENERATORS:
        before = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
            torch.random.set_rng_state(before[2])


def seed_generators(seed: int) -> np.random.SeedSequence:
    """Seed the global generators for one view, within `own_generators`; returns what they were seeded by."""
    sequence = np.random.SeedSequence(seed)
    words = sequence.generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    # Not torch.manual_seed: that would also seed every accelerator.
    torch.random.default_generator.manual_seed(int(words[2]))
    return sequence
