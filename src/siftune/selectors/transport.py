"""Optimal transport from the targets to the pool: the rows that carry the targets' mass (arXiv 2602.14696).

Every target has mass 1/M to place on the pool at cost (1 - S) / 2 with entropic regularisation eps. The plan is

    plan_qj = u_q K_qj v_j,   K_qj = exp(S_qj / (2 eps)),   sum_j plan_qj = 1/M for every target,

and the two selectors differ in what they ask of the mass (K'u)_j v_j that row j carries:

* **unbalanced**: its divergence from 1/N is penalised, rho KL(mass | 1/N), so that
  v_j = (1 / (N (K'u)_j)) ^ (rho / (rho + eps)) (Chizat et al., arXiv 1607.05816). With the published rho = 1e-4 and
  eps = 0.01 the exponent is 0.0099: the plan is close to the **closed form** v = 1,
  mass_j = (1/M) sum_q softmax_j(S_qj / (2 eps)), and every iteration brings it a hundred times closer.
* **balanced** at a budget of B rows: both marginals are hard. Were the pool's marginal 1/N, every row would carry the
  same, and nothing would be selected; what a selection needs is that B rows carry all the mass, in equal parts: row j
  carries **at most 1/B**, its share of the budget (tokens_j / B under a token budget), and the total capacity N/B
  exceeds the mass by just what is not selected. At B = N this is the balanced problem with both marginals given. Then
  v_j = min(1, capacity_j / (K'u)_j): the scaling of the indicator function of a capacity (same source, section 5).

Both work in the log domain, so that small eps does not underflow. Since v_j depends on u and on the M similarities of
row j alone, only log u is kept between passes over the pool: memory is O(M) and one block, beside what rows score
(balanced: and the rows near their capacity). Sums over the pool are exact, so that neither its order nor the size of
blocks changes a bit of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from siftune._common.errors import ConfigError
from siftune.config.options import COUNT, NOT_NEGATIVE, POSITIVE, OwnSettings, option
from siftune.selectors.core import ordering
from siftune.selectors.core.budget import Budget
from siftune.selectors.core.capacity_dual import CapacityDual, log_of_demand
from siftune.selectors.core.constraints import Ledger
from siftune.selectors.core.exact_sums import LARGEST, ExactSums
from siftune.selectors.core.info import Selector, SelectorInfo
from siftune.selectors.core.problem import Problem
from siftune.selectors.core.selection import Selection, conclude, ties_at_cut

Rule = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From the rows' numbers and log (K'u)_j to log v_j."""
Blocks = Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]
"""Starts a pass of ``(rows, log K [M, n])`` over the usable rows."""


@dataclass(frozen=True)
class UnbalancedSettings(OwnSettings):
    regularization: float = option(0.01, "eps; the larger, the more evenly a target spreads its mass.",
                                   decides="selection", rule=POSITIVE)
    relaxation: float = option(1e-4, "rho, the price of a pool marginal that is not uniform; 0 is the closed form.",
                               decides="selection", rule=NOT_NEGATIVE)
    tolerance: float = option(1e-9, "Stop when no log u changes by more.", decides="selection", rule=POSITIVE)
    max_iterations: int = option(100, "Passes over the similarities at most.", decides="selection", rule=COUNT)


def unbalanced_ot(problem: Problem, budget: Budget | str | int, *, regularization: float = 0.01,
                  relaxation: float = 1e-4, tolerance: float = 1e-9, max_iterations: int = 100) -> Selection:
    """The rows that carry most mass where the pool's marginal is soft; the score is the mass, 1 in all.

    Args:
        problem: similarities.
        budget: rows, share or tokens.
        regularization: eps; the larger, the more evenly a target spreads its mass.
        relaxation: rho, the price of a pool marginal that is not uniform; 0 is the closed form.
        tolerance: stop when no log u changes by more.
        max_iterations: passes over the similarities at most.

    ``nearest_target`` is the target from which most of the row's mass comes. Diagnostics add ``solver`` ("closed form"
    where it is exact to the tolerance, or "sinkhorn"), ``iterations``, ``residual`` (the last change of log u),
    ``converged``, ``transport_cost`` and ``mass_selected``.

    Raises:
        ConfigError: a score-only problem, or a parameter out of range.
    """
    _positive(regularization=regularization, tolerance=tolerance, max_iterations=max_iterations)
    if not relaxation >= 0:
        raise ConfigError(f"relaxation must not be negative: {relaxation}", where="relaxation")
    blocks = _Pool(problem, regularization)
    exponent, log_b = relaxation / (relaxation + regularization), -np.log(blocks.size)

    def rule(rows: np.ndarray, log_demand: np.ndarray) -> np.ndarray:
        return exponent * (log_b - log_demand)

    log_u, bound = _update(blocks, _open, None, _maxima(blocks, blocks.targets))
    spread = exponent * np.ptp(_demand(blocks, log_u)[~problem.exclude]) if exponent else 0.0
    solver, iterations, residual = "closed form", 1, spread
    if spread > tolerance:
        solver = "sinkhorn"
        while residual > tolerance and iterations < max_iterations:
            before = log_u
            log_u, bound = _update(blocks, rule, log_u, bound)
            residual = float(np.abs(log_u - before).max())
            iterations += 1
    plan = _columns(problem, blocks, log_u, _open if solver == "closed form" else rule)
    return _by_score(problem, budget, plan, plan.mass, solver=solver, iterations=iterations, residual=float(residual),
                     converged=bool(residual <= tolerance))


@dataclass(frozen=True)
class BalancedSettings(OwnSettings):
    regularization: float = option(0.01, "eps; the larger, the more evenly a target spreads its mass.",
                                   decides="selection", rule=POSITIVE)
    tolerance: float = option(1e-9, "Stop when no target's mass is off by more, relative to 1/M.", decides="selection",
                              rule=POSITIVE)
    max_iterations: int = option(200, "Newton steps at most, over all passes.", decides="selection", rule=COUNT)


def balanced_ot(problem: Problem, budget: Budget | str | int, *, regularization: float = 0.01,
                tolerance: float = 1e-9, max_iterations: int = 200) -> Selection:
    """The rows that carry most mass where no row may carry more than its share of the budget.

    The score is the part of its capacity that a row carries, between 0 and 1: mass times B. Alternating u and v would
    take on the order of B iterations, since mass that finds its rows full moves on slowly; instead, the concave dual
    in the M numbers log u is maximised by Newton steps. A capacity binds only where the demand (K'u)_j exceeds it, so
    the steps look at the rows whose demand comes near their capacity (at most 2 B of them), and a pass over the pool
    then shows whether others have come near.

    Args:
        problem: similarities.
        budget: rows, share or tokens; it is what the capacities are shares of.
        regularization: eps.
        tolerance: stop when no target's mass is off by more, relative to 1/M.
        max_iterations: Newton steps at most, over all passes.

    Diagnostics add ``iterations``, ``passes``, ``residual``, ``converged``, ``transport_cost``, ``mass_selected`` and
    ``saturated`` (rows that carry all they may).

    Raises:
        ConfigError: a score-only problem, or a parameter out of range.
    """
    _positive(regularization=regularization, tolerance=tolerance, max_iterations=max_iterations)
    resolved = problem.resolve(budget)
    blocks = _Pool(problem, regularization)
    cost = problem.tokens if resolved.kind == "tokens" and problem.tokens is not None else np.ones(len(problem))
    with np.errstate(divide="ignore"):  # a row without tokens carries nothing
        capacity = np.log(cost / resolved.limit)

    def rule(rows: np.ndarray, log_demand: np.ndarray) -> np.ndarray:
        return np.minimum(0.0, capacity[rows] - log_demand)

    log_u, _ = _update(blocks, _open, None, _maxima(blocks, blocks.targets))
    iterations, passes, residual = 0, 2, 0.0
    near = np.zeros(len(problem), dtype=bool)
    rank = ordering.id_rank(problem.ids)
    while iterations < max_iterations:
        demand = _demand(blocks, log_u)
        passes += 1
        if not (demand > capacity)[~near].any():
            break
        near |= demand > capacity - np.log(2)
        rows, log_k, rest = _near_and_rest(blocks, near)
        order = np.argsort(rank[rows])  # linear algebra rounds by the order of its operands
        dual = CapacityDual(log_k[:, order], capacity[rows[order]], rest)
        del log_k
        log_u, steps, residual = dual.maximise(log_u, tolerance, max_iterations - iterations)
        iterations, passes = iterations + steps, passes + 2
        log_u = np.round(log_u, 10)  # and by the number of its threads
    plan = _columns(problem, blocks, log_u, rule)
    binding = np.isfinite(capacity) & ~problem.exclude
    # Targets' masses are right to the tolerance; a row may miss as much, in its own smaller unit.
    slack = 10 * tolerance * max(1.0, resolved.limit / blocks.targets)
    saturated = binding & (plan.log_demand >= capacity - slack)
    share = np.zeros(len(problem))
    share[binding] = np.minimum(plan.mass[binding] / np.exp(capacity[binding]), 1.0)
    share[saturated] = 1.0  # ties are ties
    return _by_score(problem, budget, plan, share, nested=False, iterations=iterations, passes=passes + 1,
                     residual=float(residual), converged=bool(residual <= tolerance), saturated=int(saturated.sum()))


class _Pool:
    """Passes over the usable rows: ``(rows, S / (2 eps))``."""

    def __init__(self, problem: Problem, regularization: float):
        problem.required_blocks()
        self.problem, self.scale = problem, 1 / (2 * regularization)
        self.size = int((~problem.exclude).sum())
        self.targets = len(problem.targets)

    def __call__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start, block in self.problem.stream():
            columns = np.flatnonzero(~self.problem.exclude[start:start + block.shape[1]])
            if len(columns):
                yield start + columns, (block if len(columns) == block.shape[1] else block[:, columns]) * self.scale


def _open(rows: np.ndarray, log_demand: np.ndarray) -> np.ndarray:
    """The rule of the closed form: v = 1."""
    return np.zeros(len(rows))


def _maxima(blocks: Blocks, targets: int) -> np.ndarray:
    """float64 [M]: the largest log K of every target; 0 where there are no rows."""
    maxima = [log_k.max(axis=1) for _, log_k in blocks()]
    return np.max(maxima, axis=0) if maxima else np.zeros(targets)


def _update(blocks: Blocks, rule: Rule, log_u: np.ndarray | None, bound: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One iteration: log u = log(1/M) - log(K v) with v from the rule at the last u.

    Args:
        blocks: a pass over the rows.
        log_u: float64 [M]; None where the rule does not look at it.
        bound: float64 [M], a guess at log (K v)_q: sums are formed relative to it.

    Returns:
        log u and log (K v), the next guess.
    """
    while True:
        sums = ExactSums(len(bound))
        higher = np.zeros(len(bound))
        for rows, log_k in blocks():
            demand = np.zeros(len(rows)) if log_u is None else log_of_demand(log_u, log_k)
            terms = log_k + rule(rows, demand)
            terms -= bound[:, None]
            np.maximum(higher, terms.max(axis=1), out=higher)
            if higher.max() <= np.log(LARGEST):
                sums.add(np.exp(terms, out=terms))
        if higher.max() <= np.log(LARGEST):
            break
        bound = bound + higher  # the guess was too low to sum by: once more
    with np.errstate(divide="ignore"):
        log_kv = bound + np.log(sums.values)
    return -np.log(len(bound)) - log_kv, log_kv


def _demand(blocks: _Pool, log_u: np.ndarray) -> np.ndarray:
    """float64 [N]: log (K'u)_j; minus infinity for excluded rows."""
    demand = np.full(len(blocks.problem), -np.inf)
    for rows, log_k in blocks():
        demand[rows] = log_of_demand(log_u, log_k)
    return demand


def _near_and_rest(blocks: _Pool, near: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows ``near`` their capacity, their log K [M, A], and log of what all others contribute to K v with v = 1."""
    held: list[tuple[np.ndarray, np.ndarray]] = []

    def others() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        held.clear()
        for rows, log_k in blocks():
            inside = near[rows]
            if inside.any():
                held.append((rows[inside], log_k[:, inside]))
            if not inside.all():
                yield rows[~inside], log_k[:, ~inside]

    # What is left may be smaller by any factor than what the near rows contribute: it is summed by its own maxima.
    _, rest = _update(others, _open, None, _maxima(others, blocks.targets))
    return np.concatenate([rows for rows, _ in held]), np.concatenate([log_k for _, log_k in held], axis=1), rest


@dataclass(frozen=True)
class _Columns:
    """What the plan says of every row.

    Attributes:
        mass, log_demand: float64 [N].
        nearest: int64 [N], the target with the largest part of the row's mass.
        cost: the transport cost, sum of plan * (1 - S) / 2.
    """

    mass: np.ndarray
    log_demand: np.ndarray
    nearest: np.ndarray
    cost: float


def _columns(problem: Problem, blocks: _Pool, log_u: np.ndarray, rule: Rule) -> _Columns:
    n = len(problem)
    mass, demand, nearest = np.zeros(n), np.full(n, -np.inf), np.zeros(n, dtype=np.int64)
    by_id = np.argsort(ordering.id_rank(problem.targets))
    cost = 0.0
    for rows, log_k in blocks():
        demand[rows] = log_of_demand(log_u, log_k)
        log_v = rule(rows, demand[rows])
        mass[rows] = np.exp(demand[rows] + log_v)
        log_plan = log_k + log_u[:, None]
        nearest[rows] = by_id[log_plan[by_id].argmax(axis=0)]
        cost += float((np.exp(log_plan + log_v) * (1 - log_k / blocks.scale)).sum()) / 2
    return _Columns(mass, demand, nearest, cost)


def _by_score(problem: Problem, budget: Budget | str | int, plan: _Columns, score: np.ndarray, *, nested: bool = True,
              **more: Any) -> Selection:
    ledger = Ledger(problem, problem.resolve(budget))
    ledger.offer_in_order(ordering.best_first(score, problem.tiebreak))
    taken = np.array(ledger.taken, dtype=np.int64)
    return conclude(problem, ledger, score=score[taken], gain=plan.mass[taken], nearest=plan.nearest[taken],
                    ties_at_cut=ties_at_cut(ledger, score), nested=nested, row_scores=score,
                    transport_cost=round(plan.cost, 9),
                    mass_selected=round(float(plan.mass[taken].sum()), 9), **more)


def _positive(**options: float) -> None:
    for name, value in options.items():
        if not 0 < value < np.inf:
            raise ConfigError(f"{name} must be positive: {value}", where=name)


UNBALANCED_OT = Selector(SelectorInfo(
    name="unbalanced-ot", summary="The rows that carry most of the targets' mass in unbalanced optimal transport.",
    paper="arXiv 2602.14696; scaling: arXiv 1607.05816", needs="similarities",
    complexity="O(MN) per pass, about 8 passes", suits="larger budgets; any pool that can be streamed",
), unbalanced_ot, Settings=UnbalancedSettings)

BALANCED_OT = Selector(SelectorInfo(
    name="balanced-ot", summary="Optimal transport in which no row carries more than its share of the budget.",
    paper="partial transport: arXiv 1607.05816", needs="similarities",
    complexity="O(MN) per pass, O(MB) per iteration", suits="budgets whose 2 B rows by M targets fit in memory",
), balanced_ot, Settings=BalancedSettings)
