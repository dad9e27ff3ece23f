"""Log-determinant: MAP inference of a determinantal point process, greedily (Chen, Zhang & Zhou 2018).

    f(A) = log det(I + X_A X_A^T / ridge)

for the vectors X of the pool. Its greedy choice is that of ``log det(ridge I + X_A X_A^T)``, the DPP with kernel
``L = X X^T + ridge I``, but gains stay positive, and rows can still be told apart when there are as many as dimensions.
With ``ridge = 0`` it is the plain DPP, ``f(A) = log det(X_A X_A^T)``, whose gains are negative for normalised vectors
and which ends when the chosen rows span the space.

Algorithm 1 of the paper keeps ``d[i]^2 = ridge + |x_i|^2 - sum_t c[i, t]^2`` with ``c[i, t] = (L[j_t, i] - <c[j_t],
c[i]>) / d[j_t]`` for the t-th pick j_t: O(N B) memory. Here L is an inner product, so ``c[i, t] = <x_i, w_t>`` with
``w_t = (x_{j_t} - sum_{s < t} c[j_t, s] w_s) / d[j_t]``: only the w_t are kept (O(B D)), and a row's c are formed when
it comes up in the lazy queue, each from its own vector alone. So neither the order of the pool nor blocks can change
them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from siftune._common.compiled import compiled
from siftune._common.errors import ConfigError
from siftune.config.options import NOT_NEGATIVE, OwnSettings, option
from siftune.selectors.core.budget import Budget
from siftune.selectors.core.greedy import Objective, best_run, concluded
from siftune.selectors.core.grid import Vectors
from siftune.selectors.core.info import Selector, SelectorInfo
from siftune.selectors.core.problem import Problem
from siftune.selectors.core.selection import Selection

_SPANNED = 1e-9  # without a ridge, a row of which less is left (of the largest squared norm) is spanned


class LogDet(Objective):
    """The objective over vectors.

    Attributes:
        residual: float64 [N], ``d[i]^2`` as of the ``done[i]``-th pick.
        w: float64 [capacity, D], the directions of the picks so far.
    """

    def __init__(self, vectors: Vectors, ridge: float):
        self._X, self._ridge = vectors.X, ridge
        self._start = _squared_norms(vectors.X) + ridge
        self._least = 0.0 if ridge else _SPANNED * vectors.largest
        self.floor = 0.0 if ridge else -np.inf
        self.reset()

    def reset(self) -> None:
        self.residual = self._start.copy()
        self.done = np.zeros(len(self._X), dtype=np.int64)
        self.w = np.empty((64, self._X.shape[1]))
        self._count = 0

    def gains(self, rows: np.ndarray) -> np.ndarray:
        _catch_up(rows, self._X, self.w, self._count, self.residual, self.done)
        left = self.residual[rows]
        if self._ridge:
            return np.log(np.maximum(left / self._ridge, 1.0))
        gains = np.full(len(rows), -np.inf)
        np.log(left, out=gains, where=left > self._least)
        return gains

    def take(self, row: int) -> None:
        if self._count == len(self.w):
            self.w = np.concatenate([self.w, np.empty_like(self.w)])
        _catch_up(np.array([row]), self._X, self.w, self._count, self.residual, self.done)
        if self.residual[row] > self._least:  # a must-include may lie in what is spanned already: it adds no direction
            _direction(row, self._X, self.w, self._count, self.residual)
            self._count += 1


@dataclass(frozen=True)
class LogDetSettings(OwnSettings):
    ridge: float = option(1e-3, "Added to the diagonal of the kernel: the larger, the less a row counts that differs "
                          "little.", decides="selection", rule=NOT_NEGATIVE)


def log_det(problem: Problem, budget: Budget | str | int, *, ridge: float = 1e-3) -> Selection:
    """The rows that span the largest volume: diverse, and far from all that is chosen before.

    ``gain`` is the logarithm of what a row adds to the volume. Diagnostics add those of
    :func:`siftune.selectors.core.greedy.concluded`.

    Args:
        problem: ``vectors``; the kernel is their inner product, and never formed.
        budget: rows or share; tokens only with a ridge.
        ridge: added to the diagonal of the kernel, at least 0. The larger, the less a row counts that differs little
            from those chosen.

    Memory: O(N D + B D). Time: O(B D) for a candidate that is looked at for the first time after B picks.

    Raises:
        ConfigError: no vectors, a negative ridge, or a token budget without a ridge (gains per token make no sense of
            negative gains).
    """
    if not 0 <= ridge < np.inf:
        raise ConfigError(f"ridge must be at least 0, not {ridge}", where="ridge")
    resolved = problem.resolve(budget)
    if resolved.kind == "tokens" and not ridge:
        raise ConfigError("a token budget needs gains that are not negative", where="ridge",
                          hint="give a ridge, such as ridge=0.001, or the budget in rows")
    run, how = best_run(problem, resolved, LogDet(Vectors.of(problem), ridge))
    return concluded(problem, run, ridge=ridge, **how)


@compiled()
def _squared_norms(X):  # pragma: no cover - compiled
    out = np.zeros(len(X))
    for i in range(len(X)):
        for d in range(X.shape[1]):
            out[i] += np.float64(X[i, d]) * np.float64(X[i, d])
    return out


# The order of additions inside an inner product is fixed when this is compiled: it is the same for every row.
@compiled(fastmath={"reassoc", "contract"})
def _inner(x, w):  # pragma: no cover - compiled
    total = 0.0
    for d in range(len(w)):
        total += np.float64(x[d]) * w[d]
    return total


@compiled()
def _catch_up(rows, X, w, count, residual, done):  # pragma: no cover - compiled
    for row in rows:
        for t in range(done[row], count):
            c = _inner(X[row], w[t])
            residual[row] -= c * c
        done[row] = count


@compiled()
def _direction(row, X, w, count, residual):  # pragma: no cover - compiled
    for d in range(X.shape[1]):
        w[count, d] = X[row, d]
    for t in range(count):
        c = _inner(X[row], w[t])
        for d in range(X.shape[1]):
            w[count, d] -= c * w[t, d]
    for d in range(X.shape[1]):
        w[count, d] /= np.sqrt(residual[row])


LOG_DET = Selector(SelectorInfo(
    name="log-det", summary="The rows that span the largest volume: each far from those chosen before.",
    paper="DPP MAP by fast greedy: Chen, Zhang & Zhou 2018, arXiv 1709.05135", needs="vectors",
    complexity="O(N D + candidates looked at x B D)", suits="any pool whose vectors fit in memory",
), log_det, Settings=LogDetSettings)
