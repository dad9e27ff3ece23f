"""K-means with exact shares: every cluster contributes in proportion to its size, its best rows first.

Used for diversity in arXiv 2402.10430 (learning percentage), whose code rounds the share of each cluster on its own, so
that "5%" becomes 5.9%. Here shares are rounded by largest remainders, and add up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from siftune._common import seeds
from siftune._common.errors import ConfigError
from siftune.config.options import COUNT, OwnSettings, option
from siftune.selectors.baselines import shuffled
from siftune.selectors.core import ordering
from siftune.selectors.core.budget import Budget
from siftune.selectors.core.constraints import Ledger
from siftune.selectors.core.info import Selector, SelectorInfo
from siftune.selectors.core.problem import Problem
from siftune.selectors.core.selection import Selection, conclude
from siftune.selectors.core.vectors import distances_squared, gathered, on_grid
from siftune.selectors.topk import Aggregate, aggregate_score

_SAMPLE = 256  # rows per cluster that the centres are fitted to


@dataclass(frozen=True)
class KMeansSettings(OwnSettings):
    clusters: int | None = option(None, "k; the square root of the number of usable rows, at most 1000, when null.",
                                  decides="selection", rule=COUNT)
    iterations: int = option(20, "Of Lloyd's algorithm.", decides="selection", rule=COUNT)
    aggregate: Aggregate = option("max", "How the similarities of a row become its score: its best, their mean, or "
                                  "its best subtask's mean.", decides="selection")


def k_means_balanced(problem: Problem, budget: Budget | str | int, *, clusters: int | None = None,
                     iterations: int = 20, aggregate: Aggregate = "max", seed: int = 0) -> Selection:
    """Each cluster's best rows, in proportion to the cluster's size.

    Args:
        problem: vectors; where there are scores or similarities, they rank the rows of a cluster, otherwise rows near
            its centre come first.
        budget: rows, share or tokens. Under a row budget, the shares are exact to the row (largest remainders) for as
            long as clusters have rows that may be taken; under a token budget, to about a row.
        clusters: k; the square root of the number of usable rows, at most 1000, when not given.
        iterations: of Lloyd's algorithm, by faiss, on at most 256 rows per cluster.
        aggregate: how the similarities of a row become its score, as for top-k.
        seed: of the sample and of the first centres.

    The score is what ranked the row inside its cluster (minus its squared distance to the centre, where there is
    nothing else). Diagnostics add ``seed``, ``clusters`` (number), ``largest_cluster`` (rows) and ``beyond_share``:
    rows taken in the place of those of clusters that ran dry.

    Raises:
        ConfigError: a problem without vectors, or a number of clusters below 1.
    """
    ledger = Ledger(problem, problem.resolve(budget))
    usable = np.flatnonzero(~problem.exclude)
    count = min(1000, round(len(usable) ** 0.5)) if clusters is None else clusters
    if count < 1:
        raise ConfigError(f"clusters must be at least 1: {clusters}", where="clusters",
                          hint="give 1 or more, or leave the option out for the square root of the number of rows")
    problem.required_vectors()
    centres = _centres(problem, usable, min(count, len(usable)), iterations, seed)
    cluster, score = np.zeros(len(problem), dtype=np.int64), np.zeros(len(problem))
    for start, block in problem.vector_stream():
        for at in range(0, len(block), 4096):
            distance = distances_squared(on_grid(block[at:at + 4096]), centres)
            rows = slice(start + at, start + at + len(distance))
            cluster[rows], score[rows] = distance.argmin(axis=1), -distance.min(axis=1)
    if problem.blocks is not None or problem.scores is not None:
        score = aggregate_score(problem, aggregate)
    sizes = np.bincount(cluster[usable], minlength=len(centres))
    order = ordering.best_first(score, problem.tiebreak)
    beyond = _deal(problem, ledger, [order[cluster[order] == c] for c in range(len(centres))], cluster, sizes)
    taken = np.array(ledger.taken, dtype=np.int64)
    return conclude(
        problem, ledger, score=score[taken], gain=None, ties_at_cut=None, nested=False, row_scores=score,
        other_rules=True, seed=seed,
        nearest=None if problem.blocks is None else problem.summary().nearest[taken],
        clusters=len(centres), largest_cluster=int(sizes.max()), beyond_share=beyond)


def largest_remainders(total: int, sizes: np.ndarray) -> np.ndarray:
    """int64 [k]: whole numbers that add up to ``total``, in proportion to ``sizes``, none off by one or more.

    The larger remainder is rounded up first; of equal ones, the one of the smaller number.
    """
    whole, remainder = np.divmod(total * sizes.astype(np.int64), int(sizes.sum()))
    up = np.argsort(-remainder, kind="stable")[:total - int(whole.sum())]
    whole[up] += 1
    return whole


def _deal(problem: Problem, ledger: Ledger, queues: list[np.ndarray], cluster: np.ndarray, sizes: np.ndarray) -> int:
    """Let clusters take turns, the one furthest behind its share first; rows taken beyond the shares."""
    in_rows = ledger.budget.kind == "rows"
    cost = np.ones(len(problem)) if in_rows or problem.tokens is None else problem.tokens.astype(np.float64)
    weight = np.array([cost[queue[~problem.exclude[queue]]].sum() for queue in queues])
    weight /= weight.sum() or 1
    dealt = np.bincount(cluster[ledger.taken], weights=cost[ledger.taken], minlength=len(queues))
    share = np.full(len(queues), np.inf)
    if in_rows:
        share = largest_remainders(ledger.budget.limit, sizes).astype(np.float64)
    places = [0] * len(queues)
    dry = np.zeros(len(queues), dtype=bool)
    beyond = 0
    while not ledger.full:
        behind = weight * (dealt.sum() + 1) - dealt
        behind[dry] = -np.inf
        within = np.where(dealt < share, behind, -np.inf)
        exceeds = not np.isfinite(within.max())
        turn = int((behind if exceeds else within).argmax())
        row = _next(ledger, queues[turn], places, turn)
        if row is None:
            dry[turn] = True
            continue
        dealt[turn] += cost[row]
        beyond += exceeds
    return beyond


def _next(ledger: Ledger, queue: np.ndarray, places: list[int], turn: int) -> int | None:
    while places[turn] < len(queue):
        row = int(queue[places[turn]])
        places[turn] += 1
        if ledger.offer(row):
            return row
    return None


def _centres(problem: Problem, usable: np.ndarray, count: int, iterations: int, seed: int) -> np.ndarray:
    """float32 [count, D]: fitted to a sample of rows that depends on ids and seed, in that order, by one thread."""
    import faiss

    inside = np.zeros(len(problem), dtype=bool)
    inside[usable] = True
    order = shuffled(problem, seed, "k-means-balanced")
    sample = gathered(problem, order[inside[order]][:_SAMPLE * count])
    kmeans = faiss.Kmeans(sample.shape[1], count, niter=iterations, seed=seeds.derive(seed, "k-means") % 2**31,
                          min_points_per_centroid=1, max_points_per_centroid=_SAMPLE)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # sums over several threads come in no fixed order
    try:
        kmeans.train(sample)
    finally:
        faiss.omp_set_num_threads(threads)
    return on_grid(np.asarray(kmeans.centroids, dtype=np.float32).reshape(count, -1))


K_MEANS_BALANCED = Selector(SelectorInfo(
    name="k-means-balanced", summary="Every cluster's best rows, in exact proportion to its size.",
    paper="arXiv 2402.10430 (diversity by clusters)", needs="vectors", complexity="O(N k D)",
    suits="any pool whose vectors can be streamed",
), k_means_balanced, Settings=KMeansSettings)
