"""Two approximations of greedy maximisation, for when even lazy evaluation is too slow. Both are seeded by id.

* *Stochastic greedy* (Mirzasoleiman et al. 2015): before each pick, ``N / B * ln(1 / epsilon)`` open rows are drawn and
  the best of them is taken; (1 - 1/e - epsilon) of the optimum in expectation. A row found to add nothing is not drawn
  again, so a pick is wasted only when nothing is left to gain.
* *Partitioned greedy*, GreeDi (Mirzasoleiman et al. 2013, algorithm 2): the pool is dealt into parts, each nominates as
  many rows as the budget allows, and greedy chooses among all nominees; the result is kept unless one part's own
  nominees do better. Should constraints leave too few nominees, greedy goes on with the rest of the pool.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from siftune._common import seeds
from siftune._common.errors import ConfigError
from siftune._common.registry import unknown_name
from siftune.selectors.core import ordering
from siftune.selectors.core.budget import Budget, ResolvedBudget
from siftune.selectors.core.constraints import Ledger
from siftune.selectors.core.greedy import Bounds, LazyQueue, Objective, Picker, Run, best_run, lazy
from siftune.selectors.core.problem import Problem

Algorithm = Literal["greedy", "stochastic", "partitioned"]
AFFORDABLE = 4_000_000  # kernel entries up to which greedy is run as well, to say how near the approximation came


def chosen_run(problem: Problem, budget: Budget | str | int, objective: Objective, algorithm: Algorithm, *,
               epsilon: float, parts: int, seed: int, entries: int) -> tuple[Run, dict[str, Any]]:
    """A run by the algorithm asked for.

    Args:
        problem: what to select from.
        budget: rows, share or tokens.
        objective: what to maximise.
        algorithm: its name.
        epsilon: in (0, 1), for stochastic greedy; smaller is nearer to greedy and slower.
        parts: at least 1, for partitioned greedy.
        seed: of the draws.
        entries: size of the kernel, which decides whether the exact run is affordable.

    Returns:
        The run, and diagnostics: ``algorithm``, ``approximate``, the rule, and for an approximation
        ``objective_of_greedy`` and ``ratio_to_greedy`` (None where greedy was not affordable).

    Raises:
        ConfigError: an unknown algorithm or an option out of range.
    """
    if algorithm == "greedy":
        run, rule = best_run(problem, budget, objective)
        return run, {"algorithm": algorithm, "approximate": False, **rule}
    if algorithm == "stochastic":
        if not 0 < epsilon < 1:
            raise ConfigError(f"epsilon must be between 0 and 1, not {epsilon}", where="epsilon")
        run, rule = best_run(problem, budget, objective, [stochastic(problem, budget, epsilon, seed)])
        more = {"epsilon": epsilon, "seed": seed}
    elif algorithm == "partitioned":
        if parts < 1:
            raise ConfigError(f"the pool cannot be dealt into {parts} parts", where="parts")
        run, rule = partitioned(problem, budget, objective, parts, seed)
        more = {"parts": parts, "seed": seed}
    else:
        raise unknown_name("algorithm", algorithm, ("greedy", "stochastic", "partitioned"), flag="algorithm")
    greedy = best_run(problem, budget, objective)[0].value if entries <= AFFORDABLE else None
    return run, {"algorithm": algorithm, "approximate": True, **rule, **more, "objective_of_greedy": greedy,
                 "ratio_to_greedy": None if greedy is None else run.value / greedy if greedy > 0 else 1.0}


def stochastic(problem: Problem, budget: Budget | str | int, epsilon: float, seed: int) -> Picker:
    """The picker of stochastic greedy."""
    picks = _expected_picks(problem, problem.resolve(budget))
    size = math.ceil(len(problem) / picks * math.log(1 / epsilon))
    by_id = np.argsort(ordering.id_rank(problem.ids))
    return lambda bounds, ledger: _Draws(bounds, by_id, size, seed)


class _Draws:
    """The best of some drawn rows, each time."""

    def __init__(self, bounds: Bounds, by_id: np.ndarray, size: int, seed: int):
        self._bounds, self._alive, self._size = bounds, by_id, size
        self._random = np.random.Philox(key=seeds.derive(seed, "selector", "stochastic-greedy"))

    def next(self, state: np.ndarray) -> int:
        b = self._bounds
        floor = b.objective.floor
        while True:
            rows = self._drawn(state, floor)
            if not len(rows):
                return -1
            keys = b.look(rows)
            leader = rows[ordering.best_first(keys, b.rank[rows], 1)[0]]
            if b.bound[leader] > floor:
                return int(leader)

    def _drawn(self, state: np.ndarray, floor: float) -> np.ndarray:
        """Distinct rows that are open and not known to add nothing; all of them when they are few."""
        bound = self._bounds.bound
        while len(self._alive) > self._size:
            raw = self._random.random_raw(self._size) % np.uint64(len(self._alive))
            rows = self._alive[np.unique(raw.astype(np.int64))]
            useful = rows[(state[rows] == 0) & (bound[rows] > floor)]
            if 2 * len(useful) >= len(rows):
                return useful
            self._alive = self._alive[(state[self._alive] == 0) & (bound[self._alive] > floor)]
        return self._alive[(state[self._alive] == 0) & (bound[self._alive] > floor)]


def partitioned(problem: Problem, budget: Budget | str | int, objective: Objective, parts: int, seed: int
                ) -> tuple[Run, dict[str, Any]]:
    """GreeDi, in one process."""
    resolved = problem.resolve(budget)
    by_id = np.argsort(ordering.id_rank(problem.ids))
    dealt = by_id[seeds.permutation(len(problem), seed, "selector", "partitioned-greedy")]
    nominations = [_nominees(problem, resolved, objective, dealt[part::parts]) for part in range(parts)]
    merged = best_run(problem, resolved, objective, [_among(np.concatenate([rows for rows, _ in nominations])), lazy])
    alone, value = max(nominations, key=lambda nomination: nomination[1])
    if value <= merged[0].value:
        return merged
    single = best_run(problem, resolved, objective, [_among(alone), lazy])
    return single if single[0].merit > merged[0].merit else merged


def _among(rows: np.ndarray) -> Picker:
    return lambda bounds, ledger: LazyQueue(bounds, rows[ledger.open[rows]], bounds.objective.floor)


def _nominees(problem: Problem, budget: ResolvedBudget, objective: Objective, part: np.ndarray
              ) -> tuple[np.ndarray, float]:
    """The rows that greedy takes from one part, must-includes being there already, and the objective's value."""
    ledger = Ledger(problem, budget)
    objective.reset()
    bounds = Bounds(objective, problem.tiebreak, np.ones(len(problem)))
    value = 0.0
    for row in ledger.taken:
        value += float(bounds.look(np.array([row]))[0])
        objective.take(row)
        bounds.now += 1
    queue = LazyQueue(bounds, part[ledger.open[part]], objective.floor)
    nominated: list[int] = []
    while not ledger.full and (row := queue.next(ledger.state)) >= 0:
        if ledger.offer(row):
            value += float(bounds.bound[row])
            nominated.append(row)
            objective.take(row)
            bounds.now += 1
    return np.array(nominated, dtype=np.int64), value


def _expected_picks(problem: Problem, budget: ResolvedBudget) -> int:
    if budget.kind == "rows" or problem.tokens is None:
        return budget.limit
    return max(1, round(budget.limit / max(1.0, float(problem.tokens[~problem.exclude].mean()))))

