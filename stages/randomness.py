"""Random numbers that depend on what they are for, never on when or where they are drawn."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(*purpose: str | int) -> np.random.Generator:
    """Return the random numbers that belong to `purpose`, for example (seed, sample id, visit).

    The key of a counter-based generator (Philox, Salmon et al. 2011) is a hash of the purpose, so
    the numbers are the same in any process, order, thread or restart.
    """
    name = "/".join(map(str, purpose)).encode()
    key = int.from_bytes(hashlib.blake2b(name, digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key))
