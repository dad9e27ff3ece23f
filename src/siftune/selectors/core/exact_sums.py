"""Sums that do not depend on the order of their terms.

Floating-point sums over a pool change in their last bits with the order of its rows and with the width of the blocks
it is read in; where rows are nearly tied, that changes a selection. Here the terms are cut into whole multiples of
2^-30 and, for the rest, of 2^-60, and whole numbers add up to the same whatever the order.
"""

from __future__ import annotations

import numpy as np

_SCALE = float(2**30)
LARGEST = 1024.0
"""Terms must not exceed this."""


class ExactSums:
    """Running sums of M lines of terms in [0, :data:`LARGEST`].

    Each term is rounded down to a multiple of 2^-60, so a sum of n terms is too small by at most n * 2^-60.
    """

    def __init__(self, lines: int):
        self._high = np.zeros(lines, dtype=np.int64)
        self._low = np.zeros(lines, dtype=np.int64)

    def add(self, terms: np.ndarray) -> None:
        """Add float64 [M, n] terms; they are overwritten."""
        terms *= _SCALE
        high = np.floor(terms)
        terms -= high
        terms *= _SCALE
        np.floor(terms, out=terms)
        # Sums of up to 2^13 whole numbers below 2^40 are exact in float64.
        for first in range(0, terms.shape[1], 8192):
            self._high += high[:, first:first + 8192].sum(axis=1).astype(np.int64)
            self._low += terms[:, first:first + 8192].sum(axis=1).astype(np.int64)

    @property
    def values(self) -> np.ndarray:
        """float64 [M]."""
        return self._high / _SCALE + self._low / _SCALE**2
