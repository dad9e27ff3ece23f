"""Exact nearest neighbours that do not depend on the order of the rows, with faiss doing the heavy lifting.

faiss compares in float32, whose rounding depends on where a row happens to stand; and it cuts ties at the k-th
neighbour by position. So faiss only nominates somewhat more rows than are wanted. The nominees are compared again
exactly (see :mod:`siftune.selectors.core.grid`) and ordered by (similarity descending, id ascending). Where a row that
was not nominated could still belong among the neighbours, because it is within float32's error of the k-th, all rows
are compared exactly. The first neighbour of a row is always itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from siftune._common.compiled import compiled
from siftune._common.errors import ConfigError
from siftune._common.registry import unknown_name
from siftune.selectors.core.inverted_lists import nominated

if TYPE_CHECKING:
    from siftune.selectors.core.grid import Vectors

Index = Literal["auto", "flat", "ivf", "hnsw"]
LARGEST_FLAT = 200_000  # rows; comparing each with all takes minutes there, and four times as long with twice as many
_SPARE = 16  # nominees beyond the wanted ones
_ROWS = 4096  # rows asked for together
_LINKS = 32


@dataclass(frozen=True, eq=False)
class Neighbors:
    """For each of N rows its k nearest rows, itself first.

    Attributes:
        rows: int64 [N, k], -1 where an approximate index found fewer.
        similarities: float64 [N, k], exact.
        facts: for the diagnostics: ``index``, ``approximate``, ``compared_with_all`` (rows for which the nominees
            could not be shown to suffice).
    """

    rows: np.ndarray
    similarities: np.ndarray
    facts: dict[str, Any]


def nearest_neighbors(vectors: Vectors, rank: np.ndarray, k: int, index: Index | str = "auto") -> Neighbors:
    """The k rows with the largest inner product with each row, itself included and first.

    Args:
        vectors: of the pool.
        rank: int64 [N], the place of each id among the sorted ids; decides ties.
        k: neighbours a row (fewer in a smaller pool).
        index: ``flat`` is exact; ``ivf`` (:mod:`siftune.selectors.core.inverted_lists`) and ``hnsw`` are approximate,
            for pools of many 100,000 rows; ``auto`` is ``flat`` up to 200,000 rows and ``ivf`` above. All of them give
            the same neighbours for every order of the rows.

    Raises:
        ConfigError: an unknown index, or fewer than one neighbour.
    """
    if k < 1:
        raise ConfigError(f"each row needs at least one neighbour, not {k}", where="neighbors")
    if index not in ("auto", "flat", "ivf", "hnsw"):
        raise unknown_name("index", index, ("auto", "flat", "ivf", "hnsw"), flag="index")
    n = len(vectors)
    if index == "auto":
        index = "flat" if n <= LARGEST_FLAT else "ivf"
    k = min(k, n)
    by_id = np.argsort(rank)
    asked = min(k + _SPARE, n)
    nominees_of = _by_lists(vectors.X, by_id, asked) if index == "ivf" else _by_faiss(vectors.X, by_id, asked, index)
    error = rounding_error(vectors)
    rows = np.full((n, k), -1, dtype=np.int64)
    similar = np.zeros((n, k))
    compared = 0
    for start in range(0, n, _ROWS):
        some = np.arange(start, min(start + _ROWS, n))
        nominees, least = nominees_of(some)
        own = _inner_products(vectors.X, some, some[:, None])[:, 0]
        exact = _inner_products(vectors.X, some, nominees)
        rows[some], similar[some] = _nearest(some, own, nominees, exact, rank, k)
        if index == "flat" and asked < n:
            beaten = least + error < similar[some, -1]
            for chunk in _chunks(some[~beaten], n):
                all_rows = np.tile(np.arange(n), (len(chunk), 1))
                everything = vectors.similarities(chunk, slice(None))
                rows[chunk], similar[chunk] = _nearest(chunk, own[chunk - start], all_rows, everything, rank, k)
            compared += int((~beaten).sum())
    return Neighbors(rows, similar, {"index": index, "approximate": index != "flat", "compared_with_all": compared})


def rounding_error(vectors: Vectors) -> float:
    """How far a float32 inner product may be from the exact one.

    The bound of Higham & Mary (2019, theorem 2.4) with lambda = 8, which fails with probability below 1e-13; times the
    largest squared norm, by Cauchy and Schwarz.
    """
    return 8 * math.sqrt(vectors.X.shape[1]) * 2.0**-24 * vectors.largest


Nominees = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Rows -> their nominees, int64 [n, asked]; float64 [n]: whatever was not nominated is at most so similar (an exact
index; of an approximate one this says nothing)."""


def _by_lists(X: np.ndarray, by_id: np.ndarray, asked: int) -> Nominees:
    near = nominated(X, by_id, asked)
    return lambda some: (near[some].astype(np.int64), np.full(len(some), np.inf))


def _by_faiss(X: np.ndarray, by_id: np.ndarray, asked: int, index: str) -> Nominees:
    search = _built(X, by_id, index)

    def nominees_of(some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        reported, places = search.search(X[some], asked)
        return np.where(places >= 0, by_id[places], -1), reported[:, -1].astype(np.float64)

    return nominees_of


def _built(X: np.ndarray, by_id: np.ndarray, index: str) -> Any:
    """A faiss index of the rows in the order of their ids, so that it is the same for every order of the pool."""
    import faiss

    n, width = X.shape
    if index == "flat":
        built: Any = faiss.IndexFlatIP(width)
    else:
        built = faiss.IndexHNSWFlat(width, _LINKS, faiss.METRIC_INNER_PRODUCT)
        built.hnsw.efSearch = 4 * _LINKS
    threads = faiss.omp_get_max_threads()
    # Threads race when an HNSW graph is built: the graph would depend on who was first.
    faiss.omp_set_num_threads(threads if index == "flat" else 1)
    try:
        for start in range(0, n, 2**16):
            built.add(X[by_id[start:start + 2**16]])
    finally:
        faiss.omp_set_num_threads(threads)
    return built


def _chunks(rows: np.ndarray, n: int) -> list[np.ndarray]:
    """So many rows at a time that comparing them with all n takes at most 128 MB."""
    size = max(1, 2**23 // n)
    return [rows[at:at + size] for at in range(0, len(rows), size)]


@compiled(fastmath={"reassoc", "nsz", "contract"})
def _inner_products(X, some, nominees):  # pragma: no cover - compiled
    out = np.zeros(nominees.shape)
    for line in range(len(some)):
        for place in range(nominees.shape[1]):
            other = nominees[line, place]
            if other >= 0:
                total = 0.0
                for d in range(X.shape[1]):
                    total += np.float64(X[some[line], d]) * np.float64(X[other, d])
                out[line, place] = total
    return out


@compiled()
def _nearest(some, own, nominees, exact, rank, k):  # pragma: no cover - compiled
    """The row itself, then the k - 1 most similar of its other nominees (-1 is none), ties by rank."""
    rows = np.full((len(some), k), -1, dtype=np.int64)
    similar = np.zeros((len(some), k))
    for line in range(len(some)):
        rows[line, 0], similar[line, 0] = some[line], own[line]
        held = 1
        for place in range(nominees.shape[1]):
            row, s = nominees[line, place], exact[line, place]
            if row < 0 or row == some[line]:
                continue
            at = held
            while at > 1 and (s > similar[line, at - 1]
                              or (s == similar[line, at - 1] and rank[row] < rank[rows[line, at - 1]])):
                at -= 1
            if at == k:
                continue
            held = min(held + 1, k)
            for moved in range(held - 1, at, -1):
                rows[line, moved], similar[line, moved] = rows[line, moved - 1], similar[line, moved - 1]
            rows[line, at], similar[line, at] = row, s
    return rows, similar
