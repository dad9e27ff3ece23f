"""BIDS: the row that most exceeds, for any one target, what the chosen rows give it already (arXiv 2501.12147).

With Z[m, i] the z-score of row i's similarity to target m among the rows that may be taken, the next row is

    argmax_i max_m (Z[m, i] - mean over chosen k of Z[m, k]),

so that a target which the selection serves poorly, beside what the pool has to offer it, comes first, and one whose
similarities are large for all rows does not win by that. Before anything is chosen the mean is 0, as that of random
rows is.

For a given target the mean is the same for all rows, so the best row is the best that is still open for some target:
only the top of every target's ranking is ever needed, as for round-robin. Lists that run out are renewed by another
pass; the result is that of the whole matrix.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from siftune.selectors.core import ordering
from siftune.selectors.core.budget import Budget
from siftune.selectors.core.columns import columns
from siftune.selectors.core.constraints import OPEN, Ledger
from siftune.selectors.core.info import Selector, SelectorInfo
from siftune.selectors.core.problem import Problem
from siftune.selectors.core.selection import Selection, conclude
from siftune.selectors.core.spread import Spread
from siftune.selectors.core.top_lists import top_lists

_SHORTEST_LIST = 256
_COLUMN_BYTES = 1 << 28  # z-scores of all listed rows to all targets together


def bids(problem: Problem, budget: Budget | str | int) -> Selection:
    """Rows one after another, each for the target that it serves better than the chosen rows do on average.

    ``nearest_target`` is the target that decided; score and gain are by how much, in standard deviations.
    Must-includes count as chosen. Diagnostics add ``mean_z``: what the selection gives each target, the mean of its
    z-scores.

    Raises:
        ConfigError: a score-only problem.
    """
    problem.required_blocks()
    ledger = Ledger(problem, problem.resolve(budget))
    usable, targets = ~problem.exclude, len(problem.targets)
    spread = Spread.of(lambda: ((start, block[:, usable[start : start + block.shape[1]]])
                                for start, block in problem.stream()))

    def stream() -> Iterator[tuple[int, np.ndarray]]:
        for start, block in problem.stream():
            yield start, spread.z_scores(block)

    by_id = ordering.id_rank(problem.targets)
    chosen = np.zeros(targets)  # sums of z-scores
    score: list[float] = []
    nearest: list[int] = []

    def mean() -> np.ndarray:
        return chosen / max(1, len(score))

    def add(column: np.ndarray, value: float, target: int) -> None:
        nonlocal chosen
        chosen = chosen + column
        score.append(value)
        nearest.append(target)

    for column in columns(stream, targets, problem.include).T:
        ahead = column - mean()
        at = _first(ahead == ahead.max(), by_id)
        add(column, float(ahead[at]), at)
    share = -(-ledger.remaining // targets) if ledger.budget.kind == "rows" else 0
    length = max(1, min(max(_SHORTEST_LIST, 2 * share), _COLUMN_BYTES // (8 * targets**2)))
    every = np.arange(targets)
    while not ledger.full:
        lists = top_lists(stream, targets, problem.tiebreak, ledger.open, length)
        listed = np.unique(lists.rows)
        known = columns(stream, targets, listed)
        place = np.zeros(targets, dtype=np.int64)
        while not ledger.full and _advance(place, lists.rows, ledger):
            heads = lists.rows[every, place]
            ahead = lists.scores[every, place] - mean()
            best = ahead.max()
            ties = ahead == best
            row = int(heads[_first(ties, problem.tiebreak[heads])])
            if ledger.offer(row):
                at = _first(ties & (heads == row), by_id)
                add(known[:, np.searchsorted(listed, row)], float(best), at)
    found = np.array(score)
    return conclude(problem, ledger, score=found, gain=found.copy(), nearest=np.array(nearest, dtype=np.int64),
                    ties_at_cut=None, mean_z={target: round(float(z), 6)
                                              for target, z in zip(problem.targets, mean(), strict=True)})


def _first(among: np.ndarray, rank: np.ndarray) -> int:
    """The position, of those ``among``, with the lowest rank."""
    positions = np.flatnonzero(among)
    return int(positions[rank[positions].argmin()])


def _advance(place: np.ndarray, rows: np.ndarray, ledger: Ledger) -> bool:
    """Move every target to its first row that is still open; false where a list has run out."""
    length = rows.shape[1]
    for target in np.flatnonzero(ledger.state[rows[np.arange(len(place)), place]] != OPEN).tolist():
        line, at = rows[target], int(place[target])
        while at < length and not ledger.is_open(int(line[at])):
            at += 1
        if at == length:
            return False
        place[target] = at
    return True


BIDS = Selector(SelectorInfo(
    name="bids", summary="Each time the row that most exceeds what the chosen rows give some target already.",
    paper="BIDS, arXiv 2501.12147", needs="similarities", complexity="O(MN log N + BM)",
    suits="any pool that can be streamed: the top of every target's ranking is kept",
), bids)
