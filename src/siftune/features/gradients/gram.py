"""The damped inverse of the projected gradients' Gram matrix: TRAK (arXiv 2303.14186), LoGra (arXiv 2405.13954).

Influence functions put the inverse Hessian between two gradients; in the projected space the Gram matrix of the pool's
features, ``K = 1/N sum_j x_j x_j^T``, stands in for it, damped by a share of its mean eigenvalue:

    s(q, j) = q^T (K + lambda I)^-1 x_j / (|q|_K |x_j|_K),   |x|_K^2 = x^T (K + lambda I)^-1 x,
    lambda = damping * tr(K) / d.

That is the cosine after whitening (the normalisation of RelatIF, arXiv 2003.11630). K is made of the unit features, so
that no row with a large gradient decides what counts as common.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular


class DampedInverse:
    """``(K + lambda I)^-1`` of features that are streamed once.

    Args:
        blocks: float32 [n, d] unit features of the pool, in any number of blocks.
        damping: lambda in mean eigenvalues; above 0.
    """

    def __init__(self, blocks: Iterable[np.ndarray], damping: float):
        gram, rows = None, 0
        for block in blocks:
            part = (block.T @ block).astype(np.float64)
            gram = part if gram is None else gram + part
            rows += len(block)
        if gram is None:
            raise ValueError("there are no features")
        gram /= rows
        gram[np.diag_indices_from(gram)] += damping * np.trace(gram) / len(gram)
        self._factor = cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)

    def solve(self, x: np.ndarray) -> np.ndarray:
        """float64 [n, d]: ``(K + lambda I)^-1`` times every row."""
        return cho_solve(self._factor, x.T.astype(np.float64), check_finite=False).T

    def norms(self, x: np.ndarray) -> np.ndarray:
        """float64 [n]: ``|x|_K`` of every row."""
        white = solve_triangular(self._factor[0], x.T.astype(np.float64), lower=True, check_finite=False)
        return np.linalg.norm(white, axis=0)
