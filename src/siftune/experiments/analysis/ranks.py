"""Does one number predict the other's order? Spearman's rank correlation with bootstrap intervals.

Two sources of chance, two intervals: which subsets happened to be tried (:func:`spearman`, pairs are resampled), and
which test rows happen to be in the file (:func:`spearman_over_rows`, where the positions are fixed, as bins are).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from siftune._common import seeds

_DRAWS = 2_000
_LEAST = 3


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rho.

    Attributes:
        rho: in [-1, 1]; None where it is not defined (fewer than three pairs, or a side without any difference).
        low, high: ends of the interval; None likewise.
        n: pairs.
    """

    rho: float | None
    low: float | None
    high: float | None
    n: int


def rho(x: np.ndarray, y: np.ndarray) -> float | None:
    """Spearman's rank correlation, equal values sharing their mean rank; None where it is not defined."""
    if len(x) < _LEAST:
        return None
    found = float(_rhos(np.asarray(x, dtype=np.float64)[None], np.asarray(y, dtype=np.float64)[None])[0])
    return None if np.isnan(found) else found


def _rhos(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """float64 [R]: the rank correlation of each line of x [R, K] with that of y; NaN where it is not defined."""
    from scipy.stats import rankdata

    a, b = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (rankdata(x, axis=1), rankdata(y, axis=1)))
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.clip(np.divide((a * b).sum(axis=1), scale, out=np.full(len(a), np.nan), where=scale > 0), -1, 1)


def spearman(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, confidence: float,
             seed: int) -> RankCorrelation:
    """Rank correlation of K pairs, with the percentile interval of resampled pairs.

    Args:
        x, y: float [K].
        confidence: of the interval, in (0, 1).
        seed: of the resampling.
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    found = rho(a, b)
    if found is None:
        return RankCorrelation(None, None, None, len(a))
    picks = _picks(len(a), seed, "pairs")
    return _with_interval(found, _rhos(a[picks], b[picks]), confidence, len(a))


def spearman_over_rows(x: Sequence[float] | np.ndarray, losses: np.ndarray, confidence: float,
                       seed: int) -> RankCorrelation:
    """Rank correlation of K positions with the mean losses there, with the interval of resampled test rows.

    Args:
        x: float [K].
        losses: float [K, E], of each test row.
        confidence, seed: as for :func:`spearman`.
    """
    a, L = np.asarray(x, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    found = rho(a, L.mean(axis=1))
    if found is None:
        return RankCorrelation(None, None, None, len(a))
    size = L.shape[1]
    picks = _picks(size, seed, "test rows") + np.arange(_DRAWS)[:, None] * size
    counts = np.bincount(picks.ravel(), minlength=_DRAWS * size).reshape(_DRAWS, size)  # how often each row was drawn
    means = counts @ L.T / size
    return _with_interval(found, _rhos(np.broadcast_to(a, means.shape), means), confidence, len(a))


def _with_interval(found: float, draws: np.ndarray, confidence: float, n: int) -> RankCorrelation:
    draws = draws[~np.isnan(draws)]  # a resample of one pair over and over has no order
    if not len(draws):
        return RankCorrelation(found, None, None, n)
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return RankCorrelation(found, float(low), float(high), n)


def _picks(size: int, seed: int, name: str) -> np.ndarray:
    """int64 [draws, size] with replacement; the bias of the remainder is below size / 2^64."""
    bits = seeds.random_bits(_DRAWS * size, seed, "rank bootstrap", name)
    return (bits % np.uint64(size)).astype(np.int64).reshape(_DRAWS, size)
