"""Length-matched random: random rows whose response lengths are distributed like those of a reference.

The reference lengths (those of another selection) are cut at their quantiles into bins. Slots are dealt to the bins in
proportion to the reference, evenly from the first slot on, and each slot draws a random row of its bin; where a bin
has run dry, the nearest bin that has not stands in. Under a budget in rows, a few rows are then exchanged inside
their bins, so that the total length comes as near as possible to that of as many reference rows.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

import numpy as np

from siftune._common.errors import ConfigError
from siftune.selectors.baselines import required_lengths, shuffled
from siftune.selectors.core.budget import Budget
from siftune.selectors.core.constraints import Ledger
from siftune.selectors.core.info import Selector, SelectorInfo
from siftune.selectors.core.problem import Problem
from siftune.selectors.core.selection import Selection, conclude

_MOST_BINS = 20


def length_matched_random(problem: Problem, budget: Budget | str | int, *, seed: int = 0) -> Selection:
    """Random rows without replacement whose ``lengths`` are distributed like ``reference_lengths``.

    Diagnostics add ``mean_length``, ``reference_mean_length``, ``slots_from_other_bins`` (draws for which the bin of
    that length had run dry) and ``exchanged`` (rows exchanged to bring the totals together).

    Raises:
        ConfigError: the problem has no lengths or no reference lengths.
    """
    lengths = required_lengths(problem)
    reference = problem.reference_lengths
    if reference is None or not len(reference):
        raise ConfigError("length-matched random needs lengths to match", where="--selector",
                          hint="pass reference_lengths=... (response lengths of the selection to compare with)")
    bins = _Bins(reference)
    bin_of = bins.of(lengths)
    ledger = Ledger(problem, problem.resolve(budget))
    order = shuffled(problem, seed, "length-matched-random")
    queues = [iter(order[bin_of[order] == b].tolist()) for b in range(len(bins.share))]
    strayed = 0
    dealing = bins.deal(np.bincount(bin_of[ledger.taken], minlength=len(bins.share)))
    while not ledger.full:
        wanted = next(dealing)
        drawn_from = next(b for b in bins.nearest[wanted] if _draw(queues[b], ledger))
        strayed += drawn_from != wanted
    exchanged = 0
    if ledger.budget.kind == "rows":
        exchanged = _even_out(ledger, lengths, bin_of, order, round(len(ledger.taken) * float(reference.mean())))
    return conclude(
        problem, ledger, score=None, nearest=None, gain=None, ties_at_cut=None, nested=False, seed=seed,
        mean_length=float(lengths[ledger.taken].mean()), reference_mean_length=float(reference.mean()),
        slots_from_other_bins=strayed, exchanged=exchanged)


class _Bins:
    """Bins of about equally many reference lengths, and one below and one above all of them.

    Attributes:
        share: float64 [K], the share of the reference in each bin; 0 in the first and the last.
        nearest: for each bin, all bins from the nearest to the farthest, the shorter first.
    """

    def __init__(self, reference: np.ndarray):
        count = int(np.clip(len(reference) // 5, 1, _MOST_BINS))
        # Edges are lengths that occur, so that a length which many rows share gets a bin of its own.
        inner = np.quantile(reference, np.linspace(0, 1, count + 1)[:-1], method="inverted_cdf")
        self._edges = np.unique(np.append(inner, reference.max() + 1))
        counts = np.bincount(self.of(reference), minlength=len(self._edges) + 1)
        self.share = counts / len(reference)
        every = range(len(counts))
        self.nearest = [sorted(every, key=lambda b, wanted=wanted: (abs(b - wanted), b)) for wanted in every]

    def of(self, lengths: np.ndarray) -> np.ndarray:
        """int64: the bin of each length."""
        return np.searchsorted(self._edges, lengths, side="right")

    def deal(self, dealt: np.ndarray) -> Iterator[int]:
        """Bins for one slot after another, always the one that is furthest behind its share."""
        dealt = dealt.astype(np.float64)
        while True:
            wanted = int(np.argmax(self.share * (dealt.sum() + 1) - dealt))
            dealt[wanted] += 1
            yield wanted


def _draw(queue: Iterator[int], ledger: Ledger) -> bool:
    return any(ledger.offer(row) for row in queue)


def _even_out(ledger: Ledger, lengths: np.ndarray, bin_of: np.ndarray, order: np.ndarray, total: int) -> int:
    """Exchange taken rows for open ones of the same bin until the sum of lengths is ``total``, or no exchange helps.

    Must-includes and near duplicates stay; under quotas, a row is exchanged for one of the same group. Returns
    the number of rows exchanged.
    """
    missing = total - int(lengths[ledger.taken].sum())
    rank = np.argsort(order)
    spare: dict[tuple[int, int], list[tuple[int, int, int]]] = {}  # bin, quota -> (length, random rank, row), ascending
    for row in np.flatnonzero(ledger.open).tolist():
        if ledger.exchangeable(row):
            key = int(bin_of[row]), ledger.quota_of(row)
            spare.setdefault(key, []).append((int(lengths[row]), int(rank[row]), row))
    for candidates in spare.values():
        candidates.sort()
    exchanged = 0
    for out in ledger.taken[ledger.included:]:
        if missing == 0:
            break
        candidates = spare.get((int(bin_of[out]), ledger.quota_of(out)), [])
        if not candidates or not ledger.exchangeable(out):
            continue
        length = int(lengths[out])
        at = bisect_left(candidates, (length + missing,))
        near = min(range(max(0, at - 1), min(len(candidates), at + 1)),
                   key=lambda i: abs(length + missing - candidates[i][0]))
        left = missing - (candidates[near][0] - length)
        if abs(left) < abs(missing):
            ledger.exchange(out, candidates[near][2])
            del candidates[near]
            missing = left
            exchanged += 1
    return exchanged


LENGTH_MATCHED_RANDOM = Selector(SelectorInfo(
    name="length-matched-random", summary="Random rows with the response lengths of another selection.",
    paper="", needs="lengths", complexity="O(N log N)",
    suits="any pool; separates the effect of which rows from that of how long they are",
), length_matched_random)
