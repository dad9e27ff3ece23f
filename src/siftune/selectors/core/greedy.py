"""Greedy maximisation of a submodular objective, exactly as if every candidate were looked at before every pick.

The rule: take the open row with the largest gain (ties: smallest tiebreak), offer it to the ledger, repeat (Nemhauser,
Wolsey & Fisher 1978). Because gains only shrink, an old gain bounds the present one from above; the lazy queue (Minoux
1978) looks again only at candidates whose bound still leads. Bounds and ties are exact (see
:mod:`siftune.selectors.core.grid`), so the lazy pick *is* the plain pick, ties included.

Under a token budget, gain per token alone can be arbitrarily bad, and so can gain alone; the better of the two is at
least (1 - 1/e) / 2 of the optimum (CEF: Leskovec et al. 2007, theorem 3). Both are run and the better one is kept.

When no candidate has anything left to add, the rest is filled in the total order (mean similarity to the targets where
there are any, then id), and the diagnostics say how many rows that were.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from siftune._common.compiled import compiled
from siftune.selectors.core.budget import Budget, ResolvedBudget
from siftune.selectors.core.constraints import OPEN, Ledger
from siftune.selectors.core.problem import Problem
from siftune.selectors.core.selection import Selection, conclude

NEARLY = 5
_MOST_AT_ONCE = 256  # stale candidates looked at again together


class Objective(ABC):
    """A set function with diminishing gains, and the rows taken so far.

    ``floor``: a row is worth taking while its gain is larger.
    ``at_once``: how many stale candidates to begin with; the number doubles until the leader is found.
    """

    floor = 0.0
    at_once = 1

    @abstractmethod
    def reset(self) -> None:
        """Forget the rows taken."""

    @abstractmethod
    def gains(self, rows: np.ndarray) -> np.ndarray:
        """float64 [b]: what each row (int64 [b]) would add now; never more than it would have added earlier."""

    @abstractmethod
    def take(self, row: int) -> None:
        """Add a row."""

    def renew(self, rows: np.ndarray) -> bool:
        """No open row (int64) has a gain left: begin a round in which some have, if there can be one."""
        return False

    def merit(self) -> Any:
        """What two runs are compared by, the larger the better; None for the sum of the gains."""
        return None

    def facts(self, rows: Sequence[int]) -> dict[str, Any]:
        """Diagnostics of the objective after these rows were taken."""
        return {}


@dataclass(eq=False)
class Run:
    """A finished run.

    Attributes:
        ledger: the rows taken.
        gains: float64 [B], the gain of each when it was taken; 0 for rows that filled up.
        value: of the objective: the sum of the gains.
        merit: what runs are compared by.
        filled: rows taken in the total order because no gain was left.
        ties: rows left out that ranked exactly as the last one.
        nearly: the best rows left out, with what each would still have added.
        facts: the objective's diagnostics.
        evaluations: how many gains were computed.
    """

    ledger: Ledger
    gains: np.ndarray
    value: float
    merit: Any
    filled: int
    ties: int
    nearly: list[tuple[int, float]]
    facts: dict[str, Any]
    evaluations: int


class Bounds:
    """Upper bounds of all gains, and how fresh they are.

    Attributes:
        bound: float64 [N], the last known gain of each row; infinite where never computed.
        cost: float64 [N], what gains are divided by: tokens, or 1.
        rank: int64 [N], the tiebreak. ``by_rank`` is its inverse.
        now: how many rows the objective has taken; ``fresh[row] == now`` means the bound is the gain.
    """

    def __init__(self, objective: Objective, rank: np.ndarray, cost: np.ndarray):
        self.objective, self.rank, self.cost = objective, rank, cost
        self.by_rank = np.argsort(rank)
        self.evaluations = 0
        self.now = 0
        self.restart()

    def restart(self) -> None:
        """Nothing is known any more."""
        self.bound = np.full(len(self.rank), np.inf)
        self.fresh = np.full(len(self.rank), -1)

    def look(self, rows: np.ndarray) -> np.ndarray:
        """float64: the present gains of these rows, divided by their cost."""
        stale = rows[self.fresh[rows] != self.now]
        if len(stale):
            self.renewed(stale)
        return self.bound[rows] / self.cost[rows]

    def renewed(self, stale: np.ndarray) -> np.ndarray:
        """float64: the same for rows whose bounds are all stale."""
        gains = self.objective.gains(stale)
        self.bound[stale] = gains
        self.fresh[stale] = self.now
        self.evaluations += len(stale)
        return gains / self.cost[stale]


class LazyQueue:
    """The row with the largest (gain / cost), then the smallest tiebreak, among some rows."""

    def __init__(self, bounds: Bounds, rows: np.ndarray, floor: float):
        self.bounds, self.floor = bounds, floor
        unknown = rows[np.isinf(bounds.bound[rows]) & (bounds.bound[rows] > 0)]
        if len(unknown):
            bounds.look(unknown)
        self._keys = bounds.bound[rows] / bounds.cost[rows]
        self._ranks = bounds.rank[rows]
        self._size = len(rows)
        self._out = np.empty(_MOST_AT_ONCE, dtype=np.int64)
        _heapify(self._keys, self._ranks)

    def next(self, state: np.ndarray) -> int:
        """The best row that is open in ``state`` (uint8 [N], 0 is open) and worth taking, or -1.

        It stays in the queue until it is closed.
        """
        b, together = self.bounds, self.bounds.objective.at_once
        while True:
            count, self._size = _pop_stale(self._keys, self._ranks, self._size, b.by_rank, b.fresh, b.now, state,
                                           self._out[:together])
            if not count:
                if not self._size:
                    return -1
                row = int(b.by_rank[self._ranks[0]])
                return row if b.bound[row] > self.floor else -1
            stale = self._out[:count]
            self._size = _push(self._keys, self._ranks, self._size, b.renewed(stale), b.rank[stale])
            together = min(2 * together, _MOST_AT_ONCE)


Picker = Callable[[Bounds, Ledger], Any]
"""Makes, from the bounds and a ledger, an object whose ``next(state)`` is the row to offer next, or -1."""


def lazy(bounds: Bounds, ledger: Ledger) -> LazyQueue:
    """All open rows: the exact greedy rule."""
    return LazyQueue(bounds, np.flatnonzero(ledger.open), bounds.objective.floor)


def maximise(problem: Problem, budget: ResolvedBudget, objective: Objective, pickers: Sequence[Picker] = (lazy,), *,
             per_token: bool = False) -> Run:
    """One greedy run: each picker in turn until it has nothing to offer, then the fill.

    Args:
        problem: for its constraints and its tiebreak.
        budget: as resolved.
        objective: is reset first.
        pickers: who proposes rows.
        per_token: rank by gain per token instead of gain (rows of 0 tokens count as 1).
    """
    ledger = Ledger(problem, budget)
    objective.reset()
    cost = np.ones(len(problem))
    if per_token and problem.tokens is not None:
        cost = np.maximum(problem.tokens, 1).astype(np.float64)
    bounds = Bounds(objective, problem.tiebreak, cost)
    gains: list[float] = []
    ties = 0

    def taken(row: int) -> None:
        bounds.look(np.array([row]))
        # A must-include for which the objective is undefined (spanned by others, in log-det without a ridge) adds 0.
        gains.append(float(bounds.bound[row]) if np.isfinite(bounds.bound[row]) else 0.0)
        objective.take(row)
        bounds.now += 1

    for row in list(ledger.taken):
        taken(row)
    while not ledger.full:
        for picker in pickers:
            proposals = picker(bounds, ledger)
            while not ledger.full and (row := proposals.next(ledger.state)) >= 0:
                if ledger.offer(row):
                    if ledger.full:
                        ties = _ties(bounds, ledger, row)
                    taken(row)
        if ledger.full or not objective.renew(np.flatnonzero(ledger.open)):
            break
        bounds.restart()
    picked, saturated = len(ledger.taken), ledger.open
    if not ledger.full:
        ledger.offer_in_order(bounds.by_rank)
    filled = len(ledger.taken) - picked
    if filled:
        ties = int((ledger.contenders & saturated).sum())
    value = float(np.sum(gains))
    merit = objective.merit()
    return Run(ledger, np.concatenate([gains, np.zeros(filled)]), value, value if merit is None else merit, filled,
               ties, _nearly(bounds, ledger), objective.facts(ledger.taken[:picked]), bounds.evaluations)


def best_run(problem: Problem, budget: Budget | ResolvedBudget | str | int, objective: Objective,
             pickers: Sequence[Picker] = (lazy,)) -> tuple[Run, dict[str, Any]]:
    """The greedy run for a budget in rows; for one in tokens the better of gain per token and gain (CEF).

    Returns:
        The run, and diagnostics that say which rule it was.
    """
    resolved = problem.resolve(budget)
    if resolved.kind == "rows":
        return maximise(problem, resolved, objective, pickers), {"rule": "gain"}
    runs = {"gain per token": maximise(problem, resolved, objective, pickers, per_token=True),
            "gain": maximise(problem, resolved, objective, pickers)}
    rule = max(runs, key=lambda name: runs[name].merit)  # the first of equals
    return runs[rule], {"rule": rule, "objective_by_rule": {name: run.value for name, run in runs.items()}}


def concluded(problem: Problem, run: Run, *, nested: bool = True, **more: Any) -> Selection:
    """The selection of a run. The nearest target is given where the problem has similarities.

    Diagnostics add ``objective`` (its value), ``evaluations`` (gains computed), ``filled_after_zero_gain`` (rows taken
    in the total order because no row had a gain left), ``nearly_selected`` (the best rows left out, with what each
    would still have added), and those of the objective.
    """
    rows = np.array(run.ledger.taken, dtype=np.int64)
    nearly = [{"id": problem.ids[row], "gain": gain} for row, gain in run.nearly]
    return conclude(
        problem, run.ledger, score=run.gains, gain=run.gains.copy(), ties_at_cut=run.ties, nested=nested,
        nearest=None if problem.blocks is None else problem.summary().nearest[rows], objective=run.value,
        evaluations=run.evaluations, filled_after_zero_gain=run.filled, nearly_selected=nearly, **run.facts, **more)


def _ties(bounds: Bounds, ledger: Ledger, row: int) -> int:
    """Contenders that rank exactly as ``row``, before the objective has taken it."""
    key = bounds.look(np.array([row]))[0]
    may_tie = np.flatnonzero(ledger.contenders & (bounds.bound / bounds.cost >= key))
    return int((bounds.look(may_tie) == key).sum())


def _nearly(bounds: Bounds, ledger: Ledger) -> list[tuple[int, float]]:
    left_out = np.flatnonzero(ledger.contenders)
    queue, found = LazyQueue(bounds, left_out, -np.inf), []
    state = np.full(len(bounds.rank), OPEN, dtype=np.uint8)
    while len(found) < NEARLY and (row := queue.next(state)) >= 0:
        found.append((row, float(bounds.bound[row])))
        state[row] = OPEN + 1
    return found


# A binary heap in two arrays: keys (descending), then ranks (ascending). Ranks are distinct, so the order is total.
@compiled(inline="always")
def _before(keys, ranks, a, b):  # pragma: no cover - compiled
    return keys[a] > keys[b] or (keys[a] == keys[b] and ranks[a] < ranks[b])


@compiled()
def _sink(keys, ranks, at, size):  # pragma: no cover - compiled
    while True:
        child = 2 * at + 1
        if child >= size:
            return
        if child + 1 < size and _before(keys, ranks, child + 1, child):
            child += 1
        if not _before(keys, ranks, child, at):
            return
        keys[at], keys[child] = keys[child], keys[at]
        ranks[at], ranks[child] = ranks[child], ranks[at]
        at = child


@compiled()
def _heapify(keys, ranks):  # pragma: no cover - compiled
    for at in range(len(keys) // 2 - 1, -1, -1):
        _sink(keys, ranks, at, len(keys))


@compiled()
def _push(keys, ranks, size, new_keys, new_ranks):  # pragma: no cover - compiled
    for i in range(len(new_keys)):
        at = size
        keys[at], ranks[at] = new_keys[i], new_ranks[i]
        while at and _before(keys, ranks, at, (at - 1) // 2):
            up = (at - 1) // 2
            keys[at], keys[up] = keys[up], keys[at]
            ranks[at], ranks[up] = ranks[up], ranks[at]
            at = up
        size += 1
    return size


@compiled()
def _pop_stale(keys, ranks, size, by_rank, fresh, now, state, out):  # pragma: no cover - compiled
    """Pop from the top: closed rows for good, stale ones into ``out``; stop at one that is fresh."""
    count = 0
    while size and count < len(out):
        row = by_rank[ranks[0]]
        closed = state[row] != 0
        if not closed and fresh[row] == now:
            break
        if not closed:
            out[count] = row
            count += 1
        size -= 1
        keys[0], ranks[0] = keys[size], ranks[size]
        _sink(keys, ranks, 0, size)
    return count, size
