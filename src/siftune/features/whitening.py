"""Vectors whitened on the pool before they are compared: the setting ``whiten``.

What all rows share is not one direction only (:mod:`siftune.features.centring`): a few directions hold most of the
variance of hidden states, and cosines mostly tell of these. With m the mean of the pool's unit vectors, C their
covariance and its K largest eigenvalues l_k with eigenvectors v_k,

    z = diag(1 / sqrt(l_1 .. l_K)) V_K^T (x - m),     compared by cosine,

in which all K directions count alike (CRDS-W, arXiv 2602.13773, with K = 512 on hidden states). Directions of little
variance are mostly noise, and whitening makes it as loud as the rest: K well below the dimension, and a pool of many
times K rows. Targets and known rows are mapped by what was found on the pool.

The covariance is added up exactly, in any order and any blocks, and eigenvectors have the sign that makes their largest
coordinate positive, so the result does not depend on the order of the pool.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from siftune._common.errors import ConfigError
from siftune.config.options import COUNT_OR_NONE, option
from siftune.features.base import Context
from siftune.features.centring import Centrable, centred, note, reciprocal
from siftune.selectors.core.problem import Blocks

_GRID = 2.0**20  # coordinates of unit vectors in such steps: products are multiples of 2^-40
_AT_ONCE = 4096  # rows whose products add up in float64 without a rounding
_LEAST = 1e-9  # a direction whose variance is a smaller share of the largest is rounding


@dataclass(frozen=True)
class Whitenable(Centrable):
    """Of methods whose vectors can be whitened."""

    whiten: int = option(0, "Compare only so many principal components of the pool's vectors, all scaled alike "
                         "(whitening, which centres too); 0 for off.", decides="selection", rule=COUNT_OR_NONE,
                         paper="CRDS-W: 512")


def prepared(context: Context, vectors: Blocks, *others: np.ndarray | None,
             ) -> tuple[Blocks, list[np.ndarray | None], dict[str, Any]]:
    """:func:`~siftune.features.centring.centred`, or whitened where ``whiten`` is set.

    Raises:
        ConfigError: the pool's vectors do not span so many dimensions.
    """
    count = getattr(context.settings, "whiten", 0)
    if not count:
        return centred(context, vectors, *others)
    with context.clock.measure("whiten"):
        made = Whitening.of(vectors, count)
    notes = note([made.mean]) | {"whitened": {"components": count, "variance_explained": round(made.explained, 4)}}
    return (lambda: ((start, made(block)) for start, block in vectors()),
            [None if other is None else made(other) for other in others], notes)


@dataclass(frozen=True, eq=False)
class Whitening:
    """The map of the formula above.

    Attributes:
        mean: float64 [D].
        components: float64 [K, D], each eigenvector over the root of its eigenvalue.
        explained: share of the variance in these directions.
    """

    mean: np.ndarray
    components: np.ndarray
    explained: float

    @classmethod
    def of(cls, vectors: Blocks, count: int) -> Whitening:
        """From streamed unit vectors.

        Raises:
            ConfigError: they do not span ``count`` dimensions around their mean.
        """
        mean, covariance = moments(vectors)
        values, directions = np.linalg.eigh(covariance)
        values, directions = values[::-1], directions[:, ::-1].T
        real = int((values > _LEAST * max(float(values[0]), 0.0)).sum()) if values[0] > 0 else 0
        if count > real:
            raise ConfigError(f"the pool's vectors span {real} dimensions, not {count}", where="--set whiten",
                              hint=f"give at most {real}, better a fraction of it" if real else "leave whiten out")
        largest = np.abs(directions[:count]).argmax(axis=1)
        signs = np.sign(directions[np.arange(count), largest])
        components = directions[:count] * (signs / np.sqrt(values[:count]))[:, None]
        return cls(mean, components, float(values[:count].sum() / values[:real].sum()))

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """float32 [n, K] of length 1, or 0 where a vector is zero or nothing is left of it."""
        wide = (vectors.astype(np.float64) - self.mean) @ self.components.T
        lengths = np.linalg.norm(wide, axis=1)
        lengths[~vectors.any(axis=1)] = 0
        return (wide * reciprocal(lengths)[:, None]).astype(np.float32)


def moments(vectors: Blocks) -> tuple[np.ndarray, np.ndarray]:
    """(mean float64 [D], covariance float64 [D, D]) of streamed unit vectors, in one pass, the same to the last bit for
    every order and block (up to 2^23 rows, whose sums are exact in 63 bits)."""
    total: Any = 0
    products: Any = 0
    rows = 0
    for _, block in vectors():
        steps = np.rint(block.astype(np.float64) * _GRID)
        for start in range(0, len(steps), _AT_ONCE):
            part = steps[start : start + _AT_ONCE]
            total = total + part.sum(axis=0).astype(np.int64)
            # A coordinate of unit vectors squared adds up to at most the rows: 2^12 of 2^40 is exact in float64.
            products = products + (part.T @ part).astype(np.int64)
        rows += len(steps)
    mean = total / _GRID / rows
    return mean, products / _GRID**2 / rows - np.outer(mean, mean)

