"""The one total order of siftune: score descending, then mean similarity descending, then id ascending.

A row's place in the file never decides anything: shuffling the pool gives the same ids. The second and third key do
not depend on the score, so they are folded once into a single integer per row, its *tiebreak*; every ordering is then
a sort by (score descending, tiebreak ascending).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from siftune.selectors.core.ids import PackedIds


def id_rank(ids: Sequence[str]) -> np.ndarray:
    """int64 [N]: the place of each id among all ids sorted by code point."""
    if isinstance(ids, PackedIds):
        return ids.rank
    rank = np.empty(len(ids), dtype=np.int64)
    rank[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
    return rank


def tiebreak(ids: Sequence[str], mean: np.ndarray | None = None) -> np.ndarray:
    """int64 [N]: the place of each row when ordered by mean similarity descending, then id ascending."""
    rank = id_rank(ids)
    if mean is None:
        return rank
    place = np.empty(len(ids), dtype=np.int64)
    place[best_first(mean, rank)] = np.arange(len(ids))
    return place


def best_first(values: np.ndarray, tiebreak: np.ndarray, limit: int | None = None) -> np.ndarray:
    """Positions of ``values`` in the total order, all of them or the first ``limit``.

    Args:
        values: float64 [n], finite.
        tiebreak: int64 [n], distinct; the smaller one wins among equal values.
        limit: how many positions are wanted.

    Returns:
        int64 [min(n, limit)].
    """
    if limit is not None and limit < len(values):
        kept = best(values, tiebreak, limit)
        return kept[best_first(values[kept], tiebreak[kept])]
    order = np.argsort(-values)
    ordered = values[order]
    equal = ordered[1:] == ordered[:-1]
    if equal.any():
        # The fast unstable sort has put each run of equal values in its place; only inside the runs is it arbitrary.
        inside = np.zeros(len(order), dtype=bool)
        inside[1:] |= equal
        inside[:-1] |= equal
        tied = order[inside]
        order[inside] = tied[np.lexsort((tiebreak[tied], -values[tied]))]
    return order


def best(values: np.ndarray, tiebreak: np.ndarray, limit: int) -> np.ndarray:
    """The positions that :func:`best_first` would give with that ``limit``, as a set: in no particular order."""
    n = len(values)
    if limit >= n:
        return np.arange(n)
    if limit <= 0:
        return np.empty(0, dtype=np.int64)
    cut = np.partition(values, n - limit)[n - limit]  # the limit-th largest
    above = np.flatnonzero(values > cut)
    tied = np.flatnonzero(values == cut)
    needed = limit - len(above)
    if needed < len(tied):
        tied = tied[np.argpartition(tiebreak[tied], needed - 1)[:needed]]
    return np.concatenate([above, tied])
