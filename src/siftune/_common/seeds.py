"""One seed per run; every other seed is derived from it by name.

Python's ``hash()`` differs between processes and NumPy's ``Generator`` methods may change between versions, so
neither is used for anything that must be reproducible: seeds come from BLAKE2, random numbers from the raw Philox
stream, whose bits NumPy guarantees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def derive(seed: int, *names: str | int) -> int:
    """A seed in ``[0, 2**63)`` that depends on every part of the name, identical on every machine."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def random_bits(n: int, seed: int, *names: str | int) -> np.ndarray:
    """``n`` independent uniform ``uint64`` values, the same on every machine and NumPy version."""
    return np.random.Philox(key=derive(seed, *names)).random_raw(n)


def permutation(n: int, seed: int, *names: str | int) -> np.ndarray:
    """A uniformly random order of ``range(n)`` (int64): the stable argsort of random 64-bit keys."""
    return np.argsort(random_bits(n, seed, *names), kind="stable")


def shuffled(ids: Sequence[str], seed: int, *names: str | int) -> list[int]:
    """The positions of the ids in a random order that is the same for every order of the ids themselves."""
    by_id = sorted(range(len(ids)), key=ids.__getitem__)
    return [by_id[k] for k in permutation(len(ids), seed, *names)]
