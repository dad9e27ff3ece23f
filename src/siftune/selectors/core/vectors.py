"""Looking up rows' vectors, and comparing them, so that the result does not depend on how they came.

Matrix products round differently for other shapes, and ``[n, D] @ [D, c]`` for one block of rows is another shape than
for two. Products are formed in float64 and rounded to float32: the last bits that differ are gone, equal vectors have
equal similarities, and ties are ties.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from siftune.selectors.core.problem import Problem

_TILE = 2048


def gathered(problem: Problem, rows: np.ndarray) -> np.ndarray:
    """float32 [len(rows), D]: the vectors of these rows, in this order; one pass.

    Raises:
        ConfigError: a problem without vectors.
    """
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    out: np.ndarray | None = None
    for start, block in problem.vector_stream():
        if out is None:
            out = np.empty((len(rows), block.shape[1]), dtype=np.float32)
        first, end = np.searchsorted(ordered, [start, start + len(block)])
        out[order[first:end]] = block[ordered[first:end] - start]
    return np.empty((0, 0), dtype=np.float32) if out is None else out


def similarities(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64 [len(a), len(b)]: inner products of float32 vectors, to the precision of float32."""
    product = a.astype(np.float64) @ b.astype(np.float64).T
    return product.astype(np.float32).astype(np.float64)


def similarity_tiles(vectors: np.ndarray) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """All pairs of rows once: tiles ``(rows, columns, similarities)`` on and above the diagonal, in a fixed order."""
    slices = [slice(at, min(at + _TILE, len(vectors))) for at in range(0, len(vectors), _TILE)]
    for i, first in enumerate(slices):
        for second in slices[i:]:
            yield first, second, similarities(vectors[first], vectors[second])


def distances_squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64 [len(a), len(b)]: squared Euclidean distances of float32 vectors; 0 between equal vectors."""
    return np.maximum(0.0, (_norms(a)[:, None] + _norms(b)) - 2 * similarities(a, b))


def unit(vectors: np.ndarray) -> np.ndarray:
    """float32: the vectors divided by their lengths; a vector of zeros stays one, and is like nothing."""
    length = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    return (vectors / np.where(length > 0, length, 1.0)[:, None]).astype(np.float32)


class HeldVectors:
    """Vectors [n, D] in memory as float64, to be compared with one of them after another."""

    def __init__(self, vectors: np.ndarray):
        self._single, self._double, self._norms = vectors, vectors.astype(np.float64), _norms(vectors)

    def row(self, at: int) -> np.ndarray:
        """float32 [1, D]."""
        return self._single[at:at + 1]

    def similarities(self, at: int) -> np.ndarray:
        """float64 [n]: to one of them; as :func:`similarities`."""
        return (self._double @ self._double[at]).astype(np.float32).astype(np.float64)

    def distances_squared(self, at: int) -> np.ndarray:
        """float64 [n]: to one of them; as :func:`distances_squared`."""
        return np.maximum(0.0, (self._norms + self._norms[at]) - 2 * self.similarities(at))


def _norms(vectors: np.ndarray) -> np.ndarray:
    """float64: squared lengths, rounded like :func:`similarities`."""
    squares = np.einsum("ij,ij->i", vectors.astype(np.float64), vectors.astype(np.float64))
    return squares.astype(np.float32).astype(np.float64)
