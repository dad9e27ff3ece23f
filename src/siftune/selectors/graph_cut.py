"""Graph cut: rows that are like the rest of the pool and unlike each other.

    f(A) = sum_{i in V, j in A} s[i, j] - lambda sum_{i, j in A} s[i, j]

With lambda = 0 these are the rows with the largest column sums; the larger lambda, the more likeness among the chosen
rows costs. For a symmetric kernel, f is monotone up to lambda = 0.5; above, gains can become negative, and greedy still
fills the budget with the least harmful rows (diagnostics: ``negative_gains``). Iyer & Bilmes 2015; as in PRISM, arXiv
2103.00128. Negative similarities count as 0.

What a row would add is kept up to date by one column and one row of the kernel per pick: ``gain = c[j] - lambda (p[j] +
s[j, j])`` with the column sum c and ``p[j] = sum_{i in A} (s[i, j] + s[j, i])``, both exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from siftune._common.errors import ConfigError
from siftune.config.options import COUNT, NOT_NEGATIVE, OwnSettings, option
from siftune.selectors.core.budget import Budget
from siftune.selectors.core.greedy import Objective, best_run, concluded
from siftune.selectors.core.grid import Negatives
from siftune.selectors.core.info import Selector, SelectorInfo
from siftune.selectors.core.kernel_sources import KernelForm, pool_kernel
from siftune.selectors.core.kernels import Kernel
from siftune.selectors.core.problem import Problem
from siftune.selectors.core.selection import Selection


class GraphCut(Objective):
    """The objective over a kernel [N, N]. Its gains may be negative, so no row is ever not worth taking."""

    floor = -np.inf

    def __init__(self, kernel: Kernel, lambda_: float):
        self.kernel, self.lambda_ = kernel, lambda_
        self._turned = kernel.transposed()
        self._sums = kernel.column_sums()
        self._own = kernel.diagonal().astype(np.float64)
        self.reset()

    def reset(self) -> None:
        self._penalty = np.zeros(self.kernel.shape[1])

    def gains(self, rows: np.ndarray) -> np.ndarray:
        return self._sums[rows] - self.lambda_ * (self._penalty[rows] + self._own[rows])

    def take(self, row: int) -> None:
        for kernel in (self.kernel, self._turned):
            rows, entries = kernel.column(row)
            self._penalty[rows] += entries

    def facts(self, rows: Sequence[int]) -> dict[str, Any]:
        return {"kernel": self.kernel.facts}


@dataclass(frozen=True)
class GraphCutSettings(OwnSettings):
    lambda_: float = option(0.5, "What likeness among the chosen rows costs.", decides="selection", rule=NOT_NEGATIVE)
    kernel: KernelForm = option("auto", "How the kernel is held: whole, by nearest neighbours, or made again block by "
                                "block; auto goes by the size of the pool.", decides="selection")
    neighbors: int = option(32, "Neighbours of a row in a sparse kernel.", decides="selection", rule=COUNT)
    index: Literal["auto", "flat", "ivf", "hnsw"] = option("auto", "How neighbours are found: exactly (flat) or "
                                                           "approximately; auto is exact up to 200,000 rows, ivf "
                                                           "above.", decides="selection")
    negatives: Negatives = option("clip", "What happens to negative similarities: they count as 0, or are refused.",
                                  decides="selection")


def graph_cut(problem: Problem, budget: Budget | str | int, *, lambda_: float = 0.5, kernel: KernelForm = "auto",
              neighbors: int = 32, index: str = "auto", negatives: Negatives = "clip") -> Selection:
    """Greedy maximisation of graph cut.

    Diagnostics add those of :func:`siftune.selectors.core.greedy.concluded`, ``kernel``, and ``negative_gains``: how
    many of the rows lowered the objective.

    Args:
        problem: a ``kernel`` [N, N] or ``vectors``.
        budget: rows, share or tokens.
        lambda_: at least 0, what likeness among the chosen rows costs.
        kernel: see :func:`siftune.selectors.core.kernel_sources.pool_kernel`, as ``neighbors``, ``index`` and
        ``negatives``.

    Raises:
        ConfigError: neither kernel nor vectors, a kernel that is not square, or a negative lambda.
    """
    if not 0 <= lambda_ < np.inf:
        raise ConfigError(f"lambda_ must be at least 0, not {lambda_}", where="lambda_")
    entries = pool_kernel(problem, form=kernel, neighbors=neighbors, index=index, negatives=negatives)
    if entries.shape[0] != len(problem):
        raise ConfigError(f"graph cut needs a kernel [N, N] of the {len(problem)} pool rows, not {entries.shape}",
                          where="--selector")
    run, how = best_run(problem, budget, GraphCut(entries, lambda_))
    return concluded(problem, run, negative_gains=int((run.gains < 0).sum()), **how)


GRAPH_CUT = Selector(SelectorInfo(
    name="graph-cut", summary="The rows that are like the rest of the pool and unlike each other.",
    paper="Iyer & Bilmes 2015; PRISM, arXiv 2103.00128", needs="kernel",
    complexity="O(nonzeros of the kernel + B N log N)", suits="up to 20,000 rows exactly, more with a sparse kernel",
), graph_cut, Settings=GraphCutSettings)
