"""Looking up rows' vectors, and comparing them, so that the result does not depend on how they came.

Matrix products round differently for other shapes, and ``[n, D] @ [D, c]`` for one block of rows is another shape than
for two. Products are formed in float64 and rounded to float32: the last bits that differ are gone, equal vectors have
equal similarities, and ties are ties.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from siftune.selectors.problem import Problem

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
