"""How far is a subset from its targets? Distances are one less the similarity, from 0 (alike) to 2 (opposite).

* Nearest neighbour: the mean over the targets of the distance to the nearest row of the subset. A few good rows near
  each target make it small.
* Wasserstein-1: the least mean distance over all ways to match targets and rows, each side with uniform weights. Here
  all rows of the subset count (arXiv 2602.14696 relates it to the loss on the targets).
"""

from __future__ import annotations

import numpy as np

from siftune._common.errors import DataError

LARGEST = 200_000
"""Pairs (targets x rows) up to which the exact Wasserstein distance is computed; so many take a second or two."""

_SLACK = 1e-5  # rounding of cosines in float32


def cosine_distances(similarities: np.ndarray) -> np.ndarray:
    """float64 [M, B]: one less each similarity.

    Raises:
        DataError: they are not cosines, or other similarities between -1 and 1.
    """
    S = np.asarray(similarities, dtype=np.float64)
    if S.size and (S.min() < -1 - _SLACK or S.max() > 1 + _SLACK):
        raise DataError("these similarities have no distance", why=f"They reach from {S.min():.3g} to {S.max():.3g}.",
                        hint="cosines, between -1 and 1, have one")
    return 1.0 - np.clip(S, -1.0, 1.0)


def nearest_neighbour_distance(distances: np.ndarray) -> float:
    """Mean over the targets of the distance to the nearest row.

    Args:
        distances: float64 [M, B], targets by rows of the subset.
    """
    return float(np.asarray(distances).min(axis=1).mean())


def wasserstein_1(distances: np.ndarray) -> float:
    """Wasserstein-1 between M targets and B rows with uniform weights, exact: the linear programme, by HiGHS.

    Args:
        distances: float64 [M, B].
    """
    from scipy.optimize import linprog
    from scipy.sparse import eye_array, kron, vstack

    cost = np.asarray(distances, dtype=np.float64)
    m, b = cost.shape
    of_targets = kron(eye_array(m), np.ones((1, b)))
    of_rows = kron(np.ones((1, m)), eye_array(b))
    # One equation follows from the others.
    equations = vstack([of_targets, of_rows]).tocsr()[:-1]
    weights = np.concatenate([np.full(m, 1 / m), np.full(b, 1 / b)])[:-1]
    return float(linprog(cost.ravel(), A_eq=equations, b_eq=weights, bounds=(0, None), method="highs").fun)
