"""Looking up rows' vectors, and comparing them, so that the result does not depend on how they came.

Matrix products round differently for other shapes, other processors and other numbers of threads, and
``[n, D] @ [D, c]`` for one block of rows is another shape than for two. So vectors are first rounded to 26 bits below
their own length (:func:`on_grid`), of which float32 has 24: products of two of them and all sums of these fit the 53
bits of a float64, no order of summation can change one, equal vectors have equal similarities, and ties are ties.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from siftune.selectors.core.problem import Problem

_TILE = 2048
_BITS = 26


def on_grid(vectors: np.ndarray) -> np.ndarray:
    """Each vector [n, D] rounded to multiples of 2^-26 of a power of two s near its length; dtype and shape stay.

    Why inner products are exact then: they are multiples of 2^-52 s s', and no partial sum exceeds the product of the
    lengths (Cauchy-Schwarz), at most 1.21 s s', so each is a whole number below 2^53 of the same unit. Rounding again
    changes nothing, and float32 stays float32: its 24 bits are among those that are kept.
    """
    # einsum may add up in another order elsewhere; that moves a length across a power of two only if it is within 1e-16
    # of one, and at 1.1 times a power of two it is not where the lengths of unit vectors lie.
    length = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    _, exponent = np.frexp(length / 1.1)
    step = np.ldexp(1.0, exponent - _BITS)[:, None]
    return (np.rint(vectors / step) * step).astype(vectors.dtype)


def gathered(problem: Problem, rows: np.ndarray) -> np.ndarray:
    """float32 [len(rows), D]: the vectors of these rows, in this order, on the grid of :func:`on_grid`; one pass.

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
        out[order[first:end]] = on_grid(block[ordered[first:end] - start])
    return np.empty((0, 0), dtype=np.float32) if out is None else out


def similarities(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64 [len(a), len(b)]: inner products of vectors :func:`on_grid`, exact before they are rounded to float32."""
    product = a.astype(np.float64) @ b.astype(np.float64).T
    return product.astype(np.float32).astype(np.float64)


def similarity_tiles(vectors: np.ndarray) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """All pairs of rows once: tiles ``(rows, columns, similarities)`` on and above the diagonal, in a fixed order."""
    slices = [slice(at, min(at + _TILE, len(vectors))) for at in range(0, len(vectors), _TILE)]
    for i, first in enumerate(slices):
        for second in slices[i:]:
            yield first, second, similarities(vectors[first], vectors[second])


def distances_squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64 [len(a), len(b)]: squared Euclidean distances of vectors :func:`on_grid`; 0 between equal vectors."""
    return np.maximum(0.0, (_norms(a)[:, None] + _norms(b)) - 2 * similarities(a, b))


def unit(vectors: np.ndarray) -> np.ndarray:
    """float32, :func:`on_grid`: vectors that are on it divided by their lengths; zeros stay, and are like nothing."""
    length = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    return on_grid((vectors / np.where(length > 0, length, 1.0)[:, None]).astype(np.float32))


class HeldVectors:
    """Vectors [n, D], :func:`on_grid`, in memory as float64, to be compared with one of them after another."""

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
