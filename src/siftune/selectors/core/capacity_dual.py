"""The dual of optimal transport onto rows of limited capacity, maximised by Newton's method.

See :mod:`siftune.selectors.transport` for the problem. Alternating scaling converges to the same plan, but slowly: the
mass of a target whose rows are full moves on by a small fraction per iteration. The dual is concave in the M numbers
log u, once differentiable and piecewise smooth, so Newton steps with backtracking take a dozen iterations:

    D(log u) = mean(log u) - sum_q exp(log u_q + rest_q) - sum_j h_j(log (K'u)_j),

where h_j(l) is e^l up to the capacity c_j and its tangent c_j (1 + l - log c_j) above. The gradient is 1/M minus the
mass that each target places; the negative Hessian is diag(mass) - sum over saturated j of plan_j plan_j' / c_j.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_CHUNK = 4096  # columns looked at together; always the same ones, as floating-point sums depend on it
_LONGEST_STEP = 5.0  # in log u: beyond, the quadratic model says nothing


def log_of_demand(log_u: np.ndarray, log_k: np.ndarray) -> np.ndarray:
    """float64 [n]: log (K'u)_j, target after target, so that the width of the block does not matter."""
    terms = log_k + log_u[:, None]
    largest = terms.max(axis=0)
    terms -= largest
    np.exp(terms, out=terms)
    total = np.zeros(terms.shape[1])
    for line in terms:
        total += line
    return largest + np.log(total)


@dataclass(frozen=True)
class CapacityDual:
    """The dual as a function of log u.

    Attributes:
        log_k: float64 [M, A], log of the kernel of the rows that may become full.
        capacity: float64 [A], log of their capacities; minus infinity for a row that carries nothing.
        rest: float64 [M], log of what all other rows contribute to (K v)_q with v = 1.
    """

    log_k: np.ndarray
    capacity: np.ndarray
    rest: np.ndarray

    def maximise(self, log_u: np.ndarray, tolerance: float, max_steps: int) -> tuple[np.ndarray, int, float]:
        """Newton steps from ``log_u`` on.

        Returns:
            log u, the steps taken, and by how much the worst target's mass is off, relative to 1/M.
        """
        value, demand = self.value(log_u)
        step, residual = 0, np.inf
        for step in range(max_steps + 1):
            gradient, curvature = self.derivatives(log_u, demand)
            residual = float(np.abs(gradient).max() * len(log_u))
            if residual <= tolerance or step == max_steps:
                break
            direction = np.linalg.lstsq(curvature, gradient, rcond=1e-14)[0]
            if not gradient @ direction > 0:
                direction = gradient * len(log_u)
            direction *= min(1.0, _LONGEST_STEP / np.abs(direction).max())
            size, rounding = 1.0, 1e-13 * max(1.0, abs(value))
            while size > 1e-10:
                trial = log_u + size * direction
                reached, demand = self.value(trial)
                if reached >= value + 1e-4 * size * (gradient @ direction) - rounding:
                    break
                size /= 2
            else:
                break  # as far as rounding lets it go
            log_u, value = trial, reached
        return log_u, step, residual

    def value(self, log_u: np.ndarray) -> tuple[float, np.ndarray]:
        """D, and float64 [A] log (K'u)_j."""
        demand = np.empty(len(self.capacity))
        total = 0.0
        for chunk in self._chunks():
            capacity = self.capacity[chunk]
            demand[chunk] = log_of_demand(log_u, self.log_k[:, chunk])
            over = np.maximum(demand[chunk] - capacity, 0.0)
            over[np.isinf(capacity)] = 0.0
            total += float((np.exp(np.minimum(demand[chunk], capacity)) + np.exp(capacity) * over).sum())
        with np.errstate(over="ignore"):
            return float(log_u.mean() - np.exp(log_u + self.rest).sum() - total), demand

    def derivatives(self, log_u: np.ndarray, demand: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float64 [M] gradient and [M, M] negative Hessian."""
        mass = np.exp(log_u + self.rest)
        pull = np.zeros((len(log_u), len(log_u)))
        for chunk in self._chunks():
            capacity = self.capacity[chunk]
            plan = self.log_k[:, chunk] + log_u[:, None]
            plan += np.minimum(0.0, capacity - demand[chunk])
            np.exp(plan, out=plan)
            mass += plan.sum(axis=1)
            full = (demand[chunk] > capacity) & np.isfinite(capacity)
            edge = plan[:, full] * np.exp(-capacity[full] / 2)
            pull += edge @ edge.T
        return 1 / len(log_u) - mass, np.diag(mass * (1 + 1e-12)) - pull

    def _chunks(self) -> Iterator[slice]:
        return (slice(start, start + _CHUNK) for start in range(0, len(self.capacity), _CHUNK))
