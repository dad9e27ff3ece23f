"""Nearest neighbours of the targets: TSDS (arXiv 2410.11303), KNN-uniform and KNN-KDE.

TSDS spreads each target's mass 1/M over its nearest pool rows: over few, the mass travels a short way (alignment), over
many, it is even (diversity). The optimum of its objective is found by walking down the neighbour lists:

* **uniform** (section 4.1): the K nearest rows of every target carry 1/(K M) each, with K the smallest number for which
  (alpha / C) sum_q sum_{k <= K} (d_{q,K+1} - d_{q,k}) >= (1 - alpha) M.
* **KDE** (section 4.2): near-duplicates would carry the mass of a passage several times, so a row of density
  rho_j = sum_i max(0, 1 - d_ij^2 / sigma^2), over the rows on the lists, carries 1/rho_j of what a row by itself would.
  With s_{q,k} = sum_{i <= k} 1/rho, neighbours are added in the order of s, over all targets, until
  (alpha / C) sum_q (d_{q,k_q+1} s - sum_{i <= k_q} d_{q,i} / rho_i) >= (1 - alpha) M; they then carry 1/(M s rho) each,
  and the neighbour after the last one the rest of its target's mass.

Distances are those of unit vectors, d = sqrt(2 - 2 S), or d = 1 - S. Only the lists are held, not the similarities.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from siftune._common.errors import ConfigError
from siftune._common.registry import unknown_name
from siftune.config.options import COUNT, NOT_NEGATIVE, POSITIVE, PROPER_SHARE, OwnSettings, option
from siftune.selectors.core import ordering
from siftune.selectors.core.budget import Budget
from siftune.selectors.core.constraints import Ledger
from siftune.selectors.core.info import Selector, SelectorInfo
from siftune.selectors.core.problem import Problem
from siftune.selectors.core.selection import Selection, conclude, ties_at_cut
from siftune.selectors.core.top_lists import top_lists
from siftune.selectors.core.vectors import gathered, similarity_tiles
from siftune.selectors.resampling import gumbel

Distance = Literal["euclidean", "cosine"]
Draw = Literal["heaviest", "sample"]
_FIRST_LENGTH = 64


@dataclass(frozen=True)
class KnnUniformSettings(OwnSettings):
    alpha: float = option(0.5, "Weight of alignment against diversity: the larger, the fewer neighbours.",
                          decides="selection", rule=PROPER_SHARE)
    scale: float = option(5.0, "C, what a distance is measured against.", decides="selection", rule=POSITIVE)
    max_neighbours: int = option(5000, "K at most.", decides="selection", rule=COUNT)
    distance: Distance = option("euclidean", "sqrt(2 - 2 S), which takes S for cosines; or cosine, 1 - S.",
                                decides="selection")
    draw: Draw = option("heaviest", "The heaviest rows, or a sample in proportion to the mass.", decides="selection")


def knn_uniform(problem: Problem, budget: Budget | str | int, *, alpha: float = 0.5, scale: float = 5.0,
                max_neighbours: int = 5000, distance: Distance = "euclidean", draw: Draw = "heaviest",
                seed: int = 0) -> Selection:
    """The rows that carry most mass when every target spreads its own evenly over its K nearest rows.

    Args:
        problem: similarities.
        budget: rows, share or tokens.
        alpha: weight of alignment against diversity, in (0, 1): the larger, the fewer neighbours.
        scale: C, what a distance is measured against.
        max_neighbours: K at most.
        distance: ``"euclidean"``, sqrt(2 - 2 S), which takes S for cosines; or ``"cosine"``, 1 - S.
        draw: the heaviest rows, or a sample without replacement in proportion to the mass.
        seed: of the sample.

    The score is the mass, 1 in all. Where fewer rows carry mass than the budget takes, the others follow by mean
    similarity. Diagnostics add ``neighbours`` (K), ``cap_reached``, ``rows_with_mass``, ``filled_without_mass`` and
    ``mass_outside``, the mass on rows that were not selected.

    Raises:
        ConfigError: a score-only problem, a parameter out of range, or similarities above 1 with Euclidean distances.
    """
    lists = _Lists(problem, alpha, scale, max_neighbours, distance)
    wanted = (1 - alpha) * lists.targets * scale / alpha
    while True:
        rows, d = lists.rows, lists.distances
        widening = np.zeros(max(0, d.shape[1] - 1))  # cost(K) - cost(K - 1) = sum_q K (d_{q,K+1} - d_{q,K})
        for line in d:
            widening += np.arange(1, len(line)) * np.diff(line)
        reached = np.flatnonzero(np.cumsum(widening) >= wanted)
        if len(reached) or not lists.lengthen():
            break
    capped = not len(reached)
    neighbours = lists.most if capped else int(reached[0]) + 1
    mass = np.bincount(rows[:, :neighbours].ravel(), minlength=len(problem)) / (neighbours * lists.targets)
    return _by_mass(problem, budget, mass, draw, seed, neighbours=neighbours, cap_reached=capped)


@dataclass(frozen=True)
class KnnKdeSettings(OwnSettings):
    alpha: float = option(0.5, "Weight of alignment against diversity: the larger, the fewer neighbours.",
                          decides="selection", rule=PROPER_SHARE)
    scale: float = option(5.0, "C, what a distance is measured against.", decides="selection", rule=POSITIVE)
    sigma: float = option(0.75, "Rows nearer than this count as near-duplicates of each other; 0 makes all densities "
                          "1.", decides="selection", rule=NOT_NEGATIVE)
    max_neighbours: int = option(1000, "Length of the lists, whose rows make up the densities.", decides="selection",
                                 rule=COUNT)
    distance: Distance = option("euclidean", "sqrt(2 - 2 S), which takes S for cosines; or cosine, 1 - S.",
                                decides="selection")
    draw: Draw = option("heaviest", "The heaviest rows, or a sample in proportion to the mass.", decides="selection")


def knn_kde(problem: Problem, budget: Budget | str | int, *, alpha: float = 0.5, scale: float = 5.0,
            sigma: float = 0.75, max_neighbours: int = 1000, distance: Distance = "euclidean",
            draw: Draw = "heaviest", seed: int = 0) -> Selection:
    """The rows that carry most mass when rows in dense regions share theirs.

    Args:
        problem: similarities, and vectors for the distances between pool rows.
        budget, alpha, scale, distance, draw, seed: as for :func:`knn_uniform`.
        sigma: rows nearer than this count as near-duplicates of each other; 0 makes all densities 1.
        max_neighbours: length of the lists, whose rows make up the densities; time grows with the square of the
            number of rows on them.

    Diagnostics are those of :func:`knn_uniform`, with ``neighbours`` the mean number over targets, ``nominated`` rows
    on any list, and ``mean_density`` of theirs.

    Raises:
        ConfigError: as for :func:`knn_uniform`, or a problem without vectors.
    """
    if not 0 <= sigma < np.inf:
        raise ConfigError(f"sigma must not be negative: {sigma}", where="sigma")
    problem.required_vectors()
    lists = _Lists(problem, alpha, scale, max_neighbours, distance)
    while lists.lengthen():
        pass
    nominated = np.unique(lists.rows)
    density = densities(problem, nominated, sigma, distance)
    rho = density[np.searchsorted(nominated, lists.rows)]
    spread = spread_mass(lists.distances, rho, (1 - alpha) * lists.targets * scale / alpha)
    mass = np.zeros(len(problem))
    for row, part in zip(lists.rows, spread.mass, strict=True):
        mass[row] += part
    return _by_mass(problem, budget, mass, draw, seed, neighbours=round(float(spread.lengths.mean()), 6),
                    cap_reached=spread.capped, nominated=len(nominated), mean_density=round(float(density.mean()), 6))


def densities(problem: Problem, rows: np.ndarray, sigma: float, distance: Distance) -> np.ndarray:
    """float64 [R]: rho of each row, over these rows themselves; at least 1, since a row is at distance 0 of itself."""
    density = np.ones(len(rows))
    if sigma == 0 or len(rows) < 2:
        return density
    order = np.argsort(ordering.id_rank(problem.ids)[rows])  # sums in the order of ids, not of the pool
    found = np.zeros(len(rows))
    for first, second, similarity in similarity_tiles(gathered(problem, rows[order])):
        kernel = np.maximum(0.0, 1 - _distances(similarity, distance) ** 2 / sigma**2)
        if first == second:
            np.fill_diagonal(kernel, 0.0)
        found[first] += kernel.sum(axis=1)
        if first != second:
            found[second] += kernel.sum(axis=0)
    density[order] += found
    return density


@dataclass(frozen=True)
class Spread:
    """How each target's mass is spread over its list.

    Attributes:
        mass: float64 [M, L], 1/M in every row.
        lengths: int64 [M], neighbours that carry mass.
        capped: whether the lists ended before the rule was met.
    """

    mass: np.ndarray
    lengths: np.ndarray
    capped: bool


def spread_mass(d: np.ndarray, rho: np.ndarray, wanted: float) -> Spread:
    """Walk down the lists in the order of s until the cost reaches ``wanted`` (TSDS, algorithm 2).

    Args:
        d: float64 [M, L] distances, ascending along each list.
        rho: float64 [M, L] densities.
        wanted: (1 - alpha) M C / alpha.
    """
    targets, length = d.shape
    if length == 1:
        return Spread(np.full((targets, 1), 1 / targets), np.ones(targets, dtype=np.int64), capped=True)
    share = 1 / rho
    last = [-1] * targets  # the last neighbour that carries its full part; the released code begins with the first
    part, travelled, cost = share[:, 0].tolist(), (d[:, 0] * share[:, 0]).tolist(), [0.0] * targets
    heap = [(part[q], 0, q) for q in range(targets)]
    heapq.heapify(heap)
    total, s, capped = 0.0, 0.0, True
    while heap:
        s, k, q = heapq.heappop(heap)
        before, cost[q] = cost[q], float(d[q, k + 1]) * s - travelled[q]
        total += cost[q] - before
        if total >= wanted:
            capped = False
            break
        last[q] = k
        if k + 2 < length:
            travelled[q] += float(d[q, k + 1] * share[q, k + 1])
            heapq.heappush(heap, (s + float(share[q, k + 1]), k + 1, q))
    mass = np.zeros((targets, length))
    lengths = np.empty(targets, dtype=np.int64)
    for q, k in enumerate(last):
        mass[q, :k + 1] = share[q, :k + 1] / (targets * s)
        mass[q, k + 1] = max(0.0, 1 / targets - sum(mass[q, :k + 1].tolist()))
        lengths[q] = k + 1 + (mass[q, k + 1] > 0)
    return Spread(mass, lengths, capped)


class _Lists:
    """Neighbour lists of the targets that grow on demand.

    Attributes:
        rows: int64 [M, L]; distances: float64 [M, L]. One neighbour more than K is needed to stop at K.
        most: the largest K that the lists may come to serve.
    """

    def __init__(self, problem: Problem, alpha: float, scale: float, max_neighbours: int, distance: Distance):
        if not 0 < alpha < 1:
            raise ConfigError(f"alpha must lie between 0 and 1: {alpha}", where="alpha")
        if not 0 < scale < np.inf:
            raise ConfigError(f"scale must be positive: {scale}", where="scale")
        if max_neighbours < 1:
            raise ConfigError(f"max_neighbours must be at least 1: {max_neighbours}", where="max_neighbours")
        if distance not in ("euclidean", "cosine"):
            raise unknown_name("distance", distance, ("euclidean", "cosine"), flag="distance")
        problem.required_blocks()
        self.problem, self.targets = problem, len(problem.targets)
        self.distance: Distance = distance
        self._usable = ~problem.exclude
        available = int(self._usable.sum())
        self.most = min(max_neighbours, available)
        self._longest = min(self.most + 1, available)
        self._read(min(_FIRST_LENGTH, self._longest))

    def lengthen(self) -> bool:
        """Read longer lists, in another pass; False where they are as long as they may be."""
        length = self.rows.shape[1]
        if length >= self._longest:
            return False
        self._read(min(8 * length, self._longest))
        return True

    def _read(self, length: int) -> None:
        lists = top_lists(self.problem.stream, self.targets, self.problem.tiebreak, self._usable, length)
        if self.distance == "euclidean" and lists.scores.max() > 1.01:
            raise ConfigError(f"a similarity of {lists.scores.max():g} is no cosine", where="distance",
                              why="Euclidean distances are worked out from cosines, as sqrt(2 - 2 S).",
                              hint='choose distance="cosine" (1 - S), or normalise the features')
        self.rows, self.distances = lists.rows, _distances(lists.scores, self.distance)


def _distances(similarity: np.ndarray, distance: Distance) -> np.ndarray:
    if distance == "cosine":
        return 1 - similarity
    return np.sqrt(np.maximum(0.0, 2 - 2 * similarity))


def _by_mass(problem: Problem, budget: Budget | str | int, mass: np.ndarray, draw: Draw, seed: int,
             **more: Any) -> Selection:
    if draw not in ("heaviest", "sample"):
        raise unknown_name("draw", draw, ("heaviest", "sample"), flag="draw")
    ledger = Ledger(problem, problem.resolve(budget))
    score, heavy = mass, np.flatnonzero(mass)
    if draw == "sample":
        # Of log mass plus Gumbel noise, the exponential: a row without mass then has 0, not minus infinity.
        score = mass.copy()
        score[heavy] *= np.exp(gumbel((problem.ids[int(row)] for row in heavy), seed, "knn"))
        more = {"seed": seed, **more}
    ledger.offer_in_order(ordering.best_first(score, problem.tiebreak))
    taken = np.array(ledger.taken, dtype=np.int64)
    return conclude(
        problem, ledger, score=score[taken], gain=mass[taken], row_scores=score,
        nearest=problem.summary().nearest[taken],
        ties_at_cut=ties_at_cut(ledger, mass) if draw == "heaviest" else None, draw=draw, rows_with_mass=len(heavy),
        filled_without_mass=int((mass[taken[ledger.included:]] == 0).sum()),
        mass_outside=round(max(0.0, 1 - float(mass[taken].sum())), 9), **more)


KNN_UNIFORM = Selector(SelectorInfo(
    name="knn-uniform", summary="The K nearest rows of every target, weighted by how many targets share them.",
    paper="TSDS, arXiv 2410.11303", needs="similarities", complexity="O(MN + MK)",
    suits="any pool that can be streamed; memory for M lists",
), knn_uniform, Settings=KnnUniformSettings)

KNN_KDE = Selector(SelectorInfo(
    name="knn-kde", summary="Nearest rows of every target, where near-duplicates share their weight.",
    paper="TSDS, arXiv 2410.11303", needs="vectors", complexity="O(MN + R^2 D), R rows on the lists",
    suits="up to about 100,000 rows on the lists",
), knn_kde, Settings=KnnKdeSettings)
