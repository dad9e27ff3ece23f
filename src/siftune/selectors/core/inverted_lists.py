"""Near neighbours of all rows at once, approximately, by inverted lists: millions of rows in minutes.

Rows are put on lists, each with the rows that are nearest to one of some centroids (k-means of a sample), and a row is
compared with the rows on the few lists whose centroids are nearest to it (Jegou, Douze & Schmid 2011, "IVF"). A library
that answers one query after the other reads every list from memory anew for each. Here all rows ask, so it goes list by
list: all rows that ask for a list are multiplied with the rows on it in one product of matrices, and what is nearer
than what they had is kept.

Memory: 8 bytes a row and nominee, 8 a row and probe, beside the vectors.
"""

from __future__ import annotations

import math

import numpy as np

from siftune._common.compiled import compiled
from siftune._common.progress import bar

PROBES = 32
_SAMPLE, _ITERATIONS = 64, 10  # rows a list to learn the centroids from, and how often
_ROWS = 2**13  # compared with the centroids together
_ENTRIES = 2**22  # of a product of queries and rows of a list


def nominated(X: np.ndarray, by_id: np.ndarray, count: int, probes: int = PROBES) -> np.ndarray:
    """int32 [N, count]: rows near each row, the nearest first, -1 where fewer were found.

    Args:
        X: float32 [N, D].
        by_id: int64 [N], the rows in an order that does not depend on the pool's: lists are learnt in this order.
        count: of nominees a row; the row itself is among them if its own list is among the nearest.
        probes: lists that a row is compared with.
    """
    n = len(X)
    centroids = _centroids(X, by_id)
    lists, probes = len(centroids), min(probes, len(centroids))
    asked = _nearest_lists(X, by_id, centroids, probes)  # [N, probes], nearest first
    members, member_starts = _grouped(asked[:, :1], by_id, lists)
    queries, query_starts = _grouped(asked, by_id, lists)
    del asked
    near = np.full((n, count), -1, dtype=np.int32)
    similar = np.full((n, count), -np.inf, dtype=np.float32)
    with bar("neighbours", n, "rows") as progress:
        for number in range(lists):
            on = members[member_starts[number]:member_starts[number + 1]]
            asking = queries[query_starts[number]:query_starts[number + 1]]
            if len(on):
                listed = np.ascontiguousarray(X[on].T)
                height = max(1, _ENTRIES // len(on))
                for at in range(0, len(asking), height):
                    some = asking[at:at + height]
                    _keep_nearest(X[some] @ listed, some, on, near, similar)
            progress.advance(len(on))
    return near


def _centroids(X: np.ndarray, by_id: np.ndarray) -> np.ndarray:
    """float32 [lists, D], 4 sqrt(N) of them, by k-means of a sample."""
    import faiss

    n, width = X.shape
    lists = max(1, min(int(4 * math.sqrt(n)), n // 39))  # faiss wants 39 rows a list to learn from
    sample = np.ascontiguousarray(X[by_id[np.unique(np.linspace(0, n - 1, min(n, _SAMPLE * lists)).astype(np.int64))]])
    means = faiss.Kmeans(width, lists, niter=_ITERATIONS, seed=1, spherical=True, max_points_per_centroid=len(sample))
    means.train(sample)
    return np.ascontiguousarray(means.centroids, dtype=np.float32)


def _nearest_lists(X: np.ndarray, by_id: np.ndarray, centroids: np.ndarray, probes: int) -> np.ndarray:
    """int32 [N, probes], the nearest first."""
    found = np.empty((len(X), probes), dtype=np.int32)
    everyone = np.arange(len(centroids), dtype=np.int32)
    for at in range(0, len(X), _ROWS):
        rows = by_id[at:at + _ROWS]
        lists = np.full((len(rows), probes), -1, dtype=np.int32)
        _keep_nearest(X[rows] @ centroids.T, np.arange(len(rows)), everyone, lists,
                      np.full((len(rows), probes), -np.inf, dtype=np.float32))
        found[rows] = lists
    return found


def _grouped(asked: np.ndarray, by_id: np.ndarray, lists: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows of list 0, of list 1, ..., each in the order of the ids; where each begins)."""
    starts = np.concatenate([[0], np.cumsum(np.bincount(asked.ravel(), minlength=lists))])
    return _filled(asked, by_id, starts), starts


@compiled()
def _filled(asked, by_id, starts):  # pragma: no cover - compiled
    out, at = np.empty(asked.size, dtype=np.int32), starts[:-1].copy()
    for row in by_id:
        for probe in range(asked.shape[1]):
            number = asked[row, probe]
            out[at[number]] = row
            at[number] += 1
    return out


@compiled()
def _keep_nearest(found, asking, on, near, similar):  # pragma: no cover - compiled
    """Sorted lines of the nearest so far, nearest first; a later one as near as the last does not come in."""
    last = near.shape[1] - 1
    for line in range(len(asking)):
        row = asking[line]
        best, rows, least = similar[row], near[row], similar[row, last]
        for column in range(len(on)):
            s = found[line, column]
            if s > least:
                at = last
                while at > 0 and s > best[at - 1]:
                    best[at], rows[at] = best[at - 1], rows[at - 1]
                    at -= 1
                best[at], rows[at] = s, on[column]
                least = best[last]
