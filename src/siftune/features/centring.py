"""Vectors without what all rows of the pool share: the setting ``center``.

Vectors that a language model makes of texts point nearly the same way, whatever the texts are about, and their cosines
then tell little else than how strong the common part is. That is known of embeddings (Mu & Viswanath, "All-but-the-
top", arXiv 1702.01417), holds for hidden states, and most of all for LESS: Adam's direction (section 3.1) holds the
momentum of the warmup run, b1 m, which is the same for every row and, after a short warmup, several times as long as
the row's own part, so that the cosine with a target tells how long a row's own gradient is beside it. Means of unit
vectors are therefore subtracted:

    x' = (x - mean x) / |x - mean x|        q' = (q - mean y) / |q - mean y|

where x are the pool's vectors and y vectors of pool rows that are made as the target's vector q is: x themselves, but
plain gradients for LESS, whose targets have no momentum. Without a projection both means are those of some rows of the
pool, see :mod:`siftune.features.exact_scores`. None of the papers does this; docs/claims.md shows what it
is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from siftune._common.seeds import derive, shuffled
from siftune.config.options import OwnSettings, option
from siftune.data.rows import Examples
from siftune.features.base import Context
from siftune.features.similarity import Queries
from siftune.features.store import FeatureStore, Shard
from siftune.selectors.core.problem import Blocks

REFERENCE_ROWS = 256
"""How many random rows of the pool give the mean of plain gradients, where the pool's features are something else, and
both means where no features are kept."""

SHARED = "shared_by_all_rows"
"""What the notes of a run call the length of the mean that was taken out."""

_GRID = 2.0**34  # coordinates of unit vectors in such steps add up exactly in 63 bits for 2^28 rows, in any order
_NOTHING = 1e-5  # a row that is nearer to the mean than this has no direction of its own, only rounding errors


@dataclass(frozen=True)
class Centrable(OwnSettings):
    """Of methods that compare vectors."""

    center: bool = option(False, "Take what all rows of the pool share out of their vectors before they are compared. "
                          "No paper does.", decides="selection")


def centred(context: Context, vectors: Blocks, *others: np.ndarray | None,
            ) -> tuple[Blocks, list[np.ndarray | None], dict[str, Any]]:
    """The pool's vectors, what is compared with them, and what to note of it: as they are, unless ``center`` is set.

    Args:
        vectors: streamed (first row, [n, D] of length 1, or 0).
        others: [M, D], made as the pool's are.
    """
    if not context.settings.center:
        return vectors, list(others), {}
    with context.clock.measure("centre"):
        mean = mean_vector(vectors)
    return (lambda: ((start, less_mean(block, mean)[0]) for start, block in vectors()),
            [None if other is None else less_mean(other, mean)[0] for other in others], note([mean]))


def note(means: Sequence[np.ndarray]) -> dict[str, Any]:
    """For the report: the length of the mean unit vector. 0: rows point in all directions; 1: all in the same."""
    return told([float(np.linalg.norm(mean)) for mean in means])


def told(lengths: Sequence[float]) -> dict[str, Any]:
    """:func:`note` of means whose lengths are known."""
    return {SHARED: [round(length, 4) for length in lengths]}


def mean_vector(vectors: Blocks) -> np.ndarray:
    """float64 [D]: the mean of streamed unit vectors, to the last bit the same for every order and block."""
    total, rows = np.zeros(0, dtype=np.int64), 0
    for _, block in vectors():
        part = np.rint(block.astype(np.float64) * _GRID).astype(np.int64).sum(axis=0)
        total = part if not rows else total + part
        rows += len(block)
    return total / _GRID / rows


def less_mean(vectors: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(float32 [n, D]: ``vectors - mean``, of length 1, or 0 where nothing is left; float32 [n]: the lengths before
    that). A vector of zeros has no direction and gets none."""
    left = vectors - mean.astype(np.float32)
    lengths = np.linalg.norm(left, axis=1)
    lengths[~vectors.any(axis=1)] = 0
    left *= reciprocal(lengths)[:, None].astype(np.float32)
    return left, lengths


def reciprocal(lengths: np.ndarray) -> np.ndarray:
    """1 / length of what is left of vectors; 0 where that is nothing."""
    return np.where(lengths > _NOTHING, 1 / np.maximum(lengths, _NOTHING), 0)


class Centred:
    """A store's features with a mean taken out, read like the store itself.

    Args:
        store: with unit features.
        mean: float64 [d].
    """

    def __init__(self, store: FeatureStore, mean: np.ndarray):
        self._store, self._mean = store, mean

    @property
    def folder(self) -> Path:
        return self._store.folder

    def shards(self) -> Sequence[Shard]:
        return self._store.shards()

    def features(self, shard: Shard) -> np.ndarray:
        """float32 [n, d] of a shard, of length 1 (or 0)."""
        return less_mean(self._store.features(shard), self._mean)[0]


def centred_queries(queries: Queries, mean: np.ndarray) -> Queries:
    """The targets' gradients less the mean of plain gradients; their lengths shrink by what that takes of them, so that
    a mean over targets weighs them as it did."""
    features, kept = less_mean(queries.feature, mean)
    return Queries(features, (queries.norm * kept).astype(queries.norm.dtype))


def reference_rows(pool: Examples, seed: int) -> Examples:
    """Random rows of the pool, the same for every order of it.

    Args:
        seed: of the run.
    """
    chosen = sorted(shuffled(pool.ids, derive(seed, "centre"), "reference rows")[:REFERENCE_ROWS])
    return pool.take(chosen)
