"""From stored unit features at every checkpoint to similarities, streamed: S[q, j] = sum_i w_i <q_i, x_ij>."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from siftune.data.rows import Examples
from siftune.features.store import FeatureStore, Shard
from siftune.features.store.row_keys import row_digest
from siftune.selectors.core.problem import Blocks

LARGEST_COORDINATES = 64
"""How many coordinates of its vector a row without feature sets of its own covers."""


class UnitFeatures(Protocol):
    """Vectors of length 1, read shard by shard: a store, or one seen in another way."""

    @property
    def folder(self) -> Path:
        """Where what they are made of is kept."""
        ...

    def shards(self) -> Sequence[Shard]: ...

    def features(self, shard: Shard) -> np.ndarray:
        """float32 [n, d]."""
        ...


@dataclass(frozen=True)
class Queries:
    """What the targets look like at one checkpoint.

    Attributes:
        feature: float32 [M, d], unit vectors.
        norm: float32 [M], their lengths before that.
    """

    feature: np.ndarray
    norm: np.ndarray

    @classmethod
    def of(cls, store: FeatureStore) -> Queries:
        return cls(store.whole_features(), store.array("projected_norm"))


class Subtasks:
    """The target rows by subtask, in order of first appearance: any sizes, any order."""

    def __init__(self, targets: Examples):
        of = [row.subtask or "all" for row in targets.rows]
        self.names = list(dict.fromkeys(of))
        self.members = [np.array([s == name for s in of]) for name in self.names]

    def weights(self, norms: np.ndarray, target_mean: str) -> np.ndarray:
        """float64 [K, M]: how unit target vectors add up to each subtask's direction, before it is normalised.

        Args:
            norms: [M], lengths of the targets' vectors.
            target_mean: ``gradient``: the mean of the vectors themselves (the paper); ``cosine``: of the unit vectors.
        """
        rows = [member / member.sum() for member in self.members]
        return np.stack(rows) * (norms[None, :].astype(np.float64) if target_mean == "gradient" else 1.0)

    def directions(self, queries: Queries, target_mean: str, *, unit: bool = True) -> np.ndarray:
        """float32 [K, d]: what stands for each subtask; of length 1 with ``gradient`` (unless ``unit`` is false), the
        mean as it is with ``cosine`` (LESS, section 4.2)."""
        mean = self.weights(queries.norm, target_mean) @ queries.feature
        if target_mean == "gradient" and unit:
            mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-30)
        return mean.astype(np.float32)


def weighted_blocks(pool: Sequence[UnitFeatures], queries: Sequence[np.ndarray], weights: np.ndarray,
                    norms: Sequence[np.ndarray] | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, float64 [Q, n]) of sum_i w_i Q_i X_i^T, one shard of every checkpoint in memory at a time.

    Args:
        pool: one per checkpoint.
        queries: one [Q, d] per checkpoint.
        weights: float64 [checkpoints].
        norms: one float64 [N] per checkpoint to divide by, where the features have another length in the metric used.
    """
    for shard in pool[0].shards():
        total = np.zeros((len(queries[0]), len(shard)))
        for i, (store, query, weight) in enumerate(zip(pool, queries, weights, strict=True)):
            part = weight * (query @ store.features(shard).T)
            total += part if norms is None else part / norms[i][shard.start : shard.stop]
        yield shard.start, total


def stacked_blocks(pool: Sequence[UnitFeatures], weights: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, float32 [n, C d]): the features of all checkpoints side by side, each times sqrt(w_i), so that the
    inner product of two rows is sum_i w_i <x_i, y_i>."""
    scale = np.sqrt(weights).astype(np.float32)
    for shard in pool[0].shards():
        yield shard.start, np.concatenate([s * store.features(shard) for store, s in zip(pool, scale, strict=True)],
                                          axis=1)


def largest_coordinates(vectors: Blocks, rows: int, top: int = LARGEST_COORDINATES) -> Any:
    """Feature sets where a representation has none of its own: the largest coordinates of a row's vector, by sign.

    Returns:
        ``scipy.sparse.csr_array`` [rows, 2 D] of 0/1: column 2 d says that coordinate d is among the ``top`` largest by
        amount and positive, 2 d + 1 that it is and negative.
    """
    from scipy.sparse import csr_array

    columns, width = [], 0
    for _, block in vectors():
        width = block.shape[1]
        count = min(top, width)
        # Stable, so that equal amounts are taken by coordinate, whatever the block.
        largest = np.argsort(-np.abs(block), axis=1, kind="stable")[:, :count]
        columns.append(2 * largest + (np.take_along_axis(block, largest, axis=1) < 0))
    indices = np.sort(np.concatenate(columns), axis=1)
    starts = np.arange(0, indices.size + 1, indices.shape[1])
    return csr_array((np.ones(indices.size, dtype=bool), indices.ravel(), starts), shape=(rows, 2 * width))


def identical_blocks(blocks: Blocks, first: np.ndarray) -> Blocks:
    """The same blocks, in which rows with the same content have the very same similarities.

    A row's features depend on its batch by rounding only; between copies of one row that rounding would decide.

    Args:
        first: int64 [N]: the first row with the same content as each row (itself, mostly).
    """
    copies = np.flatnonzero(first != np.arange(len(first)))
    if not len(copies):
        return blocks
    originals = np.unique(first[copies])

    def stream() -> Iterator[tuple[int, np.ndarray]]:
        kept: dict[int, np.ndarray] = {}
        for start, block in blocks():
            stop = start + block.shape[1]
            for row in originals[(originals >= start) & (originals < stop)].tolist():
                kept[row] = block[:, row - start].copy()
            for row in copies[(copies >= start) & (copies < stop)].tolist():
                block[:, row - start] = kept[int(first[row])]
            yield start, block

    return stream


def first_identical(examples: Examples) -> np.ndarray:
    """int64 [N]: for each row the first one with the same token ids and mask."""
    seen: dict[bytes, int] = {}  # by hashes: the rows themselves may be more than memory holds
    keys = (row_digest(r.ids.tobytes(), r.mask.tobytes()) for r in examples.rendered)
    return np.array([seen.setdefault(key, i) for i, key in enumerate(keys)], dtype=np.int64)
