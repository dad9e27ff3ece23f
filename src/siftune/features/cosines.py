"""Cosines of unit vectors, streamed, the same whatever the blocks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from siftune.features.similarity import identical_blocks
from siftune.selectors.core.problem import Blocks
from siftune.selectors.core.vectors import on_grid


def cosines(vectors: Blocks, queries: np.ndarray) -> Blocks:
    """Streamed float32 [M, n]: inner products of M unit vectors with those of the pool.

    Exact until they are rounded once, to float32 (:func:`~siftune.selectors.core.vectors.on_grid`), so that equal
    vectors have equal cosines wherever they stand in a block.

    Args:
        vectors: streamed (first row, [n, D]).
        queries: [M, D].
    """
    wide = on_grid(queries.astype(np.float64))

    def stream() -> Iterator[tuple[int, np.ndarray]]:
        for start, block in vectors():
            yield start, (wide @ on_grid(block).astype(np.float64).T).astype(np.float32)

    return stream


def identical_vectors(vectors: Blocks, first: np.ndarray) -> Blocks:
    """The same vectors, in which rows with the same content have the very same one; see :func:`alike`.

    Args:
        vectors: streamed (first row, [n, D]).
        first: int64 [N]: the first row with the same content as each row.
    """
    columns = identical_blocks(lambda: ((start, block.copy().T) for start, block in vectors()), first)
    return lambda: ((start, block.T) for start, block in columns())
