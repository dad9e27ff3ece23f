"""Coverage of features: rows that together switch on as many features as possible, each at least ``cap`` times.

    f(S) = sum_f w_f min(cap, |{x in S : f in F(x)}|)

This is the objective of MADS (arXiv 2605.30857) as we read its abstract, which is all that is public to us: F(x) are
the neurons that row x activates, and a core set is to be diverse in what it activates. When every feature that an open
row has is covered ``cap`` times, no row has a gain left and a new round begins with ``cap + 1`` (or the next cap by
which some row has a gain), so that the budget is always spent on coverage. Rows without features fill up last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from siftune._common.compiled import compiled
from siftune._common.errors import ConfigError
from siftune._common.registry import unknown_name
from siftune.config.options import COUNT, OwnSettings, option
from siftune.selectors.core.budget import Budget
from siftune.selectors.core.greedy import Objective, best_run, concluded
from siftune.selectors.core.info import Selector, SelectorInfo
from siftune.selectors.core.problem import Problem
from siftune.selectors.core.selection import Selection

Weights = Literal["uniform", "idf"]
_WEIGHT_STEP = 2.0**-24  # weights are multiples of it, so that their sums are exact
_CURVE_POINTS = 200


class Coverage(Objective):
    """The objective over sets.

    Args:
        sets: ``scipy.sparse.csr_array`` [N, F] of ones; its index arrays are used as they are, since they may be most
            of the memory of a run.
        weights: float64 [F], multiples of 2^-24, at least 0.
        cap: how often a feature counts in the first round.

    Attributes:
        counts: int64 [F], how many of the rows taken have each feature.
        caps: the cap of each round so far.
    """

    def __init__(self, sets: Any, weights: np.ndarray, cap: int):
        self._indptr, self._indices = sets.indptr, sets.indices
        self._weights, self._first_cap = weights, cap
        self.reset()

    def reset(self) -> None:
        self.counts = np.zeros(len(self._weights), dtype=np.int64)
        self.caps = [self._first_cap]
        self._rows_by_round = [0]

    def gains(self, rows: np.ndarray) -> np.ndarray:
        return _gains(rows, self._indptr, self._indices, self._weights, self.counts, self.caps[-1])

    def take(self, row: int) -> None:
        self.counts[self._indices[self._indptr[row]:self._indptr[row + 1]]] += 1
        self._rows_by_round[-1] += 1

    def renew(self, rows: np.ndarray) -> bool:
        least = _least_count(rows, self._indptr, self._indices, self._weights, self.counts, self.caps[-1])
        if least < 0:
            return False  # no features left
        # Rounds in which no open row gains anything are passed over: a feature may be covered more often than the cap.
        self.caps.append(int(least) + 1)
        self._rows_by_round.append(0)
        return True

    def merit(self) -> tuple[float, ...]:
        """The weight covered with each cap in turn: coverage in an early round counts for more than in a later."""
        exactly = np.bincount(self.counts, weights=self._weights)
        at_least = np.append(exactly[::-1].cumsum()[::-1][1:], 0.0)  # [c]: weight of the features with counts > c
        values = at_least.cumsum()
        return tuple(values[min(cap, len(values)) - 1] for cap in range(self.caps[0], self.caps[-1] + 1))

    def facts(self, rows: Sequence[int]) -> dict[str, Any]:
        reachable = _frequency(self._indices, len(self._weights)) > 0
        rounds = [{"cap": cap, "rows": count} for cap, count in zip(self.caps, self._rows_by_round, strict=True)
                  if count]
        return {"rounds": rounds, "features": int(reachable.sum()), "features_covered": int((self.counts > 0).sum()),
                "coverage_curve": self._curve(rows)}

    def _curve(self, rows: Sequence[int]) -> list[list[int]]:
        """``[rows, features covered at least once]`` after each row, or at 200 places when there are more."""
        seen, covered, curve = np.zeros(len(self._weights), dtype=bool), 0, []
        every = -(-len(rows) // _CURVE_POINTS)
        for place, row in enumerate(rows, start=1):
            features = self._indices[self._indptr[row]:self._indptr[row + 1]]
            covered += int((~seen[features]).sum())
            seen[features] = True
            if place % every == 0 or place == len(rows):
                curve.append([place, covered])
        return curve


@dataclass(frozen=True)
class CoverageSettings(OwnSettings):
    cap: int = option(1, "How often a feature counts in the first round.", decides="selection", rule=COUNT)
    weights: Weights = option("uniform", "Whether features count alike, or log(N / rows that have it).",
                              decides="selection")


def coverage(problem: Problem, budget: Budget | str | int, *, cap: int = 1, weights: Weights = "uniform") -> Selection:
    """Rows that together cover the features, by lazy greedy; within (1 - 1/e) of the best subset in the first round.

    Diagnostics add those of :func:`siftune.selectors.core.greedy.concluded`, ``rounds`` (the cap of each and the rows
    taken in it), ``features`` (that any row has), ``features_covered`` and ``coverage_curve``.

    Args:
        problem: ``sets`` [N, F].
        budget: rows, share or tokens.
        cap: at least 1: how often a feature counts in the first round.
        weights: ``uniform``, or ``idf``: a feature counts log(N / rows that have it), so one that all rows have counts
            nothing.

    Raises:
        ConfigError: no sets, a cap below 1, or unknown weights.
    """
    if cap < 1:
        raise ConfigError(f"a feature must count at least once, not {cap} times", where="cap")
    sets = problem.required_sets()
    if not sets.data.all():
        sets = sets.copy()
        sets.eliminate_zeros()
    if weights == "uniform":
        w = np.ones(sets.shape[1])
    elif weights == "idf":
        frequency = _frequency(sets.indices, sets.shape[1])
        w = np.rint(np.log(len(problem) / np.maximum(frequency, 1)) / _WEIGHT_STEP) * _WEIGHT_STEP
    else:
        raise unknown_name("weights", weights, ("uniform", "idf"), flag="weights")
    run, how = best_run(problem, budget, Coverage(sets, w, cap))
    return concluded(problem, run, **how)


@compiled()
def _gains(rows, indptr, indices, weights, counts, cap):  # pragma: no cover - compiled
    out = np.zeros(len(rows))
    for r in range(len(rows)):
        for p in range(indptr[rows[r]], indptr[rows[r] + 1]):
            if counts[indices[p]] < cap:
                out[r] += weights[indices[p]]
    return out


@compiled()
def _least_count(rows, indptr, indices, weights, counts, lowest):  # pragma: no cover - compiled
    """The smallest count among the features that these rows have and that weigh something; -1 without any.

    None is below ``lowest``: the search ends with the first that is no larger.
    """
    least = -1
    for row in rows:
        for p in range(indptr[row], indptr[row + 1]):
            feature = indices[p]
            if weights[feature] > 0 and (least < 0 or counts[feature] < least):
                least = counts[feature]
                if least <= lowest:
                    return least
    return least


@compiled()
def _frequency(indices, features):  # pragma: no cover - compiled
    """int64 [F]: how often each feature occurs; ``numpy.bincount`` would copy the indices to int64 first."""
    out = np.zeros(features, dtype=np.int64)
    for feature in indices:
        out[feature] += 1
    return out


COVERAGE = Selector(SelectorInfo(
    name="coverage", summary="The rows that together cover as many features as possible.",
    paper="MADS, arXiv 2605.30857 (our reading of the abstract)", needs="sets",
    complexity="O(entries of the sets + picks x rows looked at again)", suits="millions of rows",
), coverage, Settings=CoverageSettings)
