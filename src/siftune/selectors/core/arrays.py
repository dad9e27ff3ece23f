"""Arrays that a caller holds, streamed as selectors read them: matrices in slices, vectors and what they compare to.

Products are formed in float64 of float32 vectors and rounded to float32 once, see
:mod:`siftune.selectors.core.vectors`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np

from siftune._common.errors import SiftuneError
from siftune._common.registry import unknown_name

Stream = Callable[[], Iterator[tuple[int, np.ndarray]]]
Metric = Literal["cosine", "inner"]
METRICS = ("cosine", "inner")


def sliced(matrix: np.ndarray, block_rows: int) -> Stream:
    """(first column, columns) of a matrix [M, N]."""
    return lambda: ((start, matrix[:, start:start + block_rows]) for start in range(0, matrix.shape[1], block_rows))


def vectors_of(given: Any, name: str, width: int | None = None) -> np.ndarray:
    """[n, D] of numbers, as they are; a memory map stays one.

    Args:
        given: an array, or what NumPy makes one of.
        name: for messages.
        width: D of the vectors that they are compared with.

    Raises:
        SiftuneError: it is no such array, or of another width.
    """
    array = np.asanyarray(given)
    if array.dtype.kind not in "fiu" or array.ndim != 2 or not array.shape[1]:
        raise SiftuneError(f"{name} has the shape {list(array.shape)} and the type {array.dtype}",
                           hint="give an array of numbers [rows, D]")
    if width is not None and array.shape[1] != width:
        raise SiftuneError(f"{name} has vectors of {array.shape[1]} numbers, pool_vectors of {width}",
                           hint="make both with the same model")
    return array


def comparable(vectors: np.ndarray, metric: Metric) -> np.ndarray:
    """float32 [n, D] whose inner products are the similarities: of length 1 for cosines (0 where the vector is).

    Raises:
        ConfigError: an unknown metric.
    """
    if metric not in METRICS:
        raise unknown_name("metric", str(metric), METRICS)
    wide = vectors.astype(np.float64)
    if metric == "cosine":
        wide /= np.maximum(np.abs(wide).max(axis=1, keepdims=True), 1e-300)  # squares neither over- nor underflow
        wide /= np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-300)
    return wide.astype(np.float32)


def vector_blocks(vectors: np.ndarray, metric: Metric, block_rows: int) -> Stream:
    """(first row, float32 [n, D]) of :func:`comparable` vectors."""
    return lambda: ((start, comparable(vectors[start:start + block_rows], metric))
                    for start in range(0, len(vectors), block_rows))


def similarity_blocks(queries: np.ndarray, vectors: Stream, metric: Metric) -> Stream:
    """(first row, float32 [M, n]): the similarities of M vectors to those of :func:`vector_blocks`."""
    wide = comparable(queries, metric).astype(np.float64)
    return lambda: ((start, (wide @ block.astype(np.float64).T).astype(np.float32)) for start, block in vectors())
