"""One source of randomness: every consumer draws from a generator of its own, a pure function of seed and purpose.

Nothing depends on how many workers load, on what was drawn before, or on where a run was interrupted.
"""

import hashlib

import torch


def stream(seed: int, *key) -> torch.Generator:
    """A CPU generator for one purpose: equal (seed, key) give equal numbers, other keys unrelated ones."""
    digest = hashlib.sha256(repr((int(seed), *key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
