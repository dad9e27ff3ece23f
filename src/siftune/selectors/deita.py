"""DEITA: the best rows that are not too similar to a better one (arXiv 2312.15685, section 2.3, "score-first").

Rows are walked through by score; a row is taken if the cosine distance of its vector to the nearest row taken so far
exceeds the threshold. Where the pool is walked through before the budget is spent, the paper has no rule; here the
threshold is halved for another walk over what is left, up to three times, and then given up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from siftune._common.errors import ConfigError
from siftune.config.options import OwnSettings, Rule, option
from siftune.selectors.core import ordering
from siftune.selectors.core.budget import Budget
from siftune.selectors.core.constraints import Ledger
from siftune.selectors.core.info import Selector, SelectorInfo
from siftune.selectors.core.problem import Problem
from siftune.selectors.core.selection import Selection, conclude
from siftune.selectors.core.vectors import gathered, similarities, unit
from siftune.selectors.topk import Aggregate, aggregate_score

_BATCH, _BYTES = 1024, 1 << 28
_HALVINGS = 3


@dataclass(frozen=True)
class DeitaSettings(OwnSettings):
    threshold: float = option(0.1, "Cosine distance to the nearest selected row that a row must exceed.",
                              decides="selection", rule=Rule("at least 0 and below 2", lambda x: 0 <= x < 2,
                                                       {"minimum": 0, "exclusiveMaximum": 2}))
    aggregate: Aggregate = option("max", "How the similarities of a row become its score: its best, their mean, or "
                                  "its best subtask's mean.", decides="selection")


def deita(problem: Problem, budget: Budget | str | int, *, threshold: float = 0.1,
          aggregate: Aggregate = "max") -> Selection:
    """The rows with the highest scores that are no near repetitions of each other.

    Args:
        problem: vectors, and scores or similarities.
        budget: rows, share or tokens.
        threshold: the cosine distance to the nearest selected row that a row must exceed, in [0, 2).
        aggregate: how the similarities of a row become its score, as for top-k.

    The score is that of the row; the gain is its distance to the nearest row selected before (2, the largest possible,
    where there is none). Diagnostics add ``walks``: for each threshold, the rows taken under it; None stands for no
    threshold.

    Raises:
        ConfigError: no vectors, neither scores nor similarities, or a threshold out of range.
    """
    if not 0 <= threshold < 2:
        raise ConfigError(f"threshold must be a cosine distance from 0 to below 2: {threshold}", where="threshold")
    problem.required_vectors()
    score = aggregate_score(problem, aggregate)
    ledger = Ledger(problem, problem.resolve(budget))
    walk = _Walk(problem, ledger, ordering.best_first(score, problem.tiebreak))
    steps: list[float | None] = [threshold / 2**halving for halving in range(_HALVINGS + 1)] if threshold else [0.0]
    walks = []
    for step in [*steps, None]:
        before = len(ledger.taken)
        walk.through(step)
        walks.append({"threshold": step, "rows": len(ledger.taken) - before})
        if ledger.full:
            break
    taken = np.array(ledger.taken, dtype=np.int64)
    return conclude(
        problem, ledger, score=score[taken], gain=np.array(walk.gain), ties_at_cut=None, row_scores=score,
        other_rules=True, walks=walks,
        nearest=None if problem.blocks is None else problem.summary().nearest[taken])


class _Walk:
    """Walks over rows in a fixed order, remembering how near each came to the rows taken.

    Attributes:
        gain: distance to the nearest row taken before, per taken row.
    """

    def __init__(self, problem: Problem, ledger: Ledger, order: np.ndarray):
        self.problem, self.ledger, self.order = problem, ledger, order
        self.nearest = np.full(len(order), -1.0)  # largest cosine to any of the first ``seen`` rows taken
        self.seen = np.zeros(len(order), dtype=np.int64)
        self.gain: list[float] = []
        included = unit(gathered(problem, np.array(ledger.taken, dtype=np.int64)))
        self._held = max(4 * _BATCH, _BYTES // (4 * included.shape[1]))  # rows whose vectors one pass looks up
        self._taken = np.empty((_BATCH, included.shape[1]), dtype=np.float32)  # with room to grow
        for vector in included:
            nearest = similarities(self._taken[:len(self.gain)], vector[None]).max(initial=-1.0) if self.gain else -1.0
            self._remember(vector, nearest)

    def through(self, threshold: float | None) -> None:
        """Offer every open row whose distance exceeds the threshold; every open row where it is None."""
        rows = self.order[self.ledger.open[self.order]]
        for start in range(0, len(rows), self._held):
            held = rows[start:start + self._held]
            if self.ledger.full:
                return
            vectors = unit(gathered(self.problem, held))
            for first in range(0, len(held), _BATCH):
                self._batch(held[first:first + _BATCH], vectors[first:first + _BATCH], threshold)

    def _batch(self, rows: np.ndarray, vectors: np.ndarray, threshold: float | None) -> None:
        for fresh in range(int(self.seen[rows].min(initial=0)), len(self.gain), _BATCH):
            known = self._taken[fresh:min(fresh + _BATCH, len(self.gain))]
            self.nearest[rows] = np.maximum(self.nearest[rows], similarities(vectors, known).max(axis=1))
        self.seen[rows] = len(self.gain)
        for at, row in enumerate(rows.tolist()):
            if self.ledger.full:
                return
            nearest = float(self.nearest[row])
            if (threshold is not None and self.gain and 1 - nearest <= threshold) or not self.ledger.offer(row):
                continue
            self._remember(vectors[at], nearest)
            rest = rows[at + 1:]
            if len(rest):
                cosine = similarities(vectors[at + 1:], vectors[at:at + 1])[:, 0]
                self.nearest[rest] = np.maximum(self.nearest[rest], cosine)
                self.seen[rest] = len(self.gain)

    def _remember(self, vector: np.ndarray, nearest: float) -> None:
        if len(self.gain) == len(self._taken):
            self._taken = np.concatenate([self._taken, np.empty_like(self._taken)])
        self._taken[len(self.gain)] = vector
        self.gain.append(1 - nearest if self.gain else 2.0)


DEITA = Selector(SelectorInfo(
    name="deita", summary="The highest scores first, passing over rows too similar to one already taken.",
    paper="DEITA, arXiv 2312.15685", needs="vectors", complexity="O(N log N + W B D), W rows walked through",
    suits="scores that many near-repetitions share; any pool whose vectors can be streamed",
), deita, Settings=DeitaSettings)
