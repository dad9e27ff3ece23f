"""Do methods choose the same rows? The Jaccard similarity of subsets: shared rows over rows in either."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def jaccard(a: Sequence[int] | np.ndarray, b: Sequence[int] | np.ndarray) -> float:
    """|A and B| / |A or B| of two sets of rows; 1 for two empty ones."""
    left, right = set(np.asarray(a).tolist()), set(np.asarray(b).tolist())
    return len(left & right) / len(left | right) if left | right else 1.0


def jaccard_matrix(subsets: Sequence[Sequence[int] | np.ndarray]) -> np.ndarray:
    """float64 [K, K] of K subsets; symmetric, with ones on the diagonal."""
    return np.array([[jaccard(a, b) for b in subsets] for a in subsets])
