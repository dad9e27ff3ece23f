"""Facility location and its targeted relatives: one core with three inputs.

    f(A) = sum_i max(0, min(max_{j in A} s[i, j], clip[i]) - cover[i])  +  sum_{j in A} modular[j]

| selector            | rows i  | clip              | cover at first        | modular           |
|---------------------|---------|-------------------|-----------------------|-------------------|
| `facility-location` | pool    | -                 | 0                     | -                 |
| `flmi`              | pool    | eta max_q s[i, q] | 0                     | -                 |
| `flqmi`             | targets | -                 | 0                     | eta max_q s[q, j] |
| `flcg`              | pool    | -                 | nu max_p s[i, p]      | -                 |
| `flcmi`             | pool    | eta max_q s[i, q] | nu max_p s[i, p]      | -                 |

q are target rows, p rows that the model already knows. Facility location: Cornuejols, Fisher & Nemhauser 1977. The
mutual-information and conditional-gain forms: Kothawade et al., PRISM, arXiv 2103.00128; DELIFT (arXiv 2411.04425) uses
`facility-location` (stage 1), `flmi` (task-specific) and `flcg` (continual). Kernels are directed: column j says how
well row j represents, or helps, row i. Negative similarities count as 0. All rows of the pool are to be represented,
excluded ones too.

Cost: one pass over the kernel, then a few columns a pick (lazy greedy, :mod:`siftune.selectors.core.greedy`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from siftune._common.errors import ConfigError
from siftune.config.options import COUNT, PROPER_SHARE, OwnSettings, Rule, option
from siftune.selectors.core.approximate_greedy import Algorithm, chosen_run
from siftune.selectors.core.budget import Budget
from siftune.selectors.core.greedy import Objective, concluded
from siftune.selectors.core.grid import Negatives
from siftune.selectors.core.info import Selector, SelectorInfo
from siftune.selectors.core.kernel_sources import KernelForm, pool_kernel, target_kernel
from siftune.selectors.core.kernels import Columns, Kernel, on_grid
from siftune.selectors.core.problem import Problem
from siftune.selectors.core.selection import Selection

Variant = Literal["fl", "flmi", "flqmi", "flcg", "flcmi"]
_AT_ONCE_KEPT = 16  # candidates to look up together when that costs next to nothing
_MOST_ETA = 2.0**20  # eta times an entry of 24 bits, added up over the rows, stays exact
_ETA = Rule(f"from 0 to {_MOST_ETA:.0f}", lambda x: 0 <= x <= _MOST_ETA, {"minimum": 0, "maximum": _MOST_ETA})


class FacilityLocation(Objective):
    """The core.

    Args:
        kernel: [R, N], already clipped.
        cover: float32 [R] on the kernel's grid, what is represented before anything is taken; None for zeros.
        modular: float64 [N] on the kernel's grid, None for zeros.

    Attributes:
        cover: float32 [R], how well each row is represented now.
        owner: int64 [R], the how-manieth row taken represents it best; -1 where none does better than ``cover`` did.

    A candidate's gain is computed from its column when it is asked for. Late in a run, the columns asked for between
    two picks can be many more than the rows whose cover a pick raises; over a symmetric dense kernel, all gains are
    then kept up to date instead, at a line of memory for each such row. Both are exact: it changes only the time.
    """

    def __init__(self, kernel: Kernel, cover: np.ndarray | None = None, modular: np.ndarray | None = None):
        self.kernel, self.modular = kernel, modular
        self._first = np.zeros(kernel.shape[0], dtype=np.float32) if cover is None else cover
        self.reset()

    def reset(self) -> None:
        self.cover = self._first.copy()
        self.owner = np.full(len(self.cover), -1)
        self._count = 0
        self._kept: np.ndarray | None = None  # all gains, once they are kept up to date
        self._looked_at = self._to_save = 0
        self.at_once = 1

    def gains(self, rows: np.ndarray) -> np.ndarray:
        self._looked_at += len(rows)
        gains = self.kernel.gains(rows, self.cover) if self._kept is None else self._kept[rows]
        return gains if self.modular is None else gains + self.modular[rows]

    def take(self, row: int) -> None:
        changed, old = self.kernel.raise_cover(row, self.cover, self.owner, self._count)
        self._count += 1
        if isinstance(self.kernel, Columns) and self.kernel.lowers_gains:
            self._keep(self.kernel, changed, old)

    def _keep(self, kernel: Columns, changed: np.ndarray, old: np.ndarray) -> None:
        if self._kept is not None:
            kernel.lower_gains(self._kept, changed, old, self.cover)
            return
        n = kernel.shape[1]
        if self._looked_at < n:  # else it was the first look at all candidates, which is always needed
            self._to_save = max(0, self._to_save + self._looked_at - len(changed))
        self._looked_at = 0
        if self._to_save > n // 4:  # what it would have saved so far pays for the look at all candidates soon
            self._kept = kernel.gains(np.arange(n), self.cover)
            self.at_once = _AT_ONCE_KEPT

    def facts(self, rows: Sequence[int]) -> dict[str, Any]:
        owned = np.bincount(self.owner[self.owner >= 0], minlength=len(rows))
        return {"represents": owned.tolist(), "represented_by_none": int((self.owner < 0).sum()),
                "kernel": self.kernel.facts}


@dataclass(frozen=True)
class FacilityLocationSettings(OwnSettings):
    eta: float = option(1.0, "How much relevance to the targets counts (flmi, flqmi, flcmi).", decides="selection",
                        rule=_ETA)
    nu: float = option(1.0, "How much of what the model already knows counts as represented (flcg, flcmi).",
                       decides="selection", rule=_ETA)
    kernel: KernelForm = option("auto", "How the kernel is held: whole, by nearest neighbours, or made again block by "
                                "block; auto goes by the size of the pool.", decides="selection")
    neighbors: int = option(32, "Neighbours of a row in a sparse kernel.", decides="selection", rule=COUNT)
    index: Literal["auto", "flat", "ivf", "hnsw"] = option("auto", "How neighbours are found: exactly (flat) or "
                                                           "approximately; auto is exact up to 200,000 rows, ivf "
                                                           "above.", decides="selection")
    negatives: Negatives = option("clip", "What happens to negative similarities: they count as 0, or are refused.",
                                  decides="selection")
    algorithm: Algorithm = option("greedy", "greedy; stochastic and partitioned are approximate.", decides="selection")
    epsilon: float = option(0.1, "Of the stochastic algorithm: smaller is nearer to greedy and slower.",
                            decides="selection", rule=PROPER_SHARE)
    parts: int = option(8, "Of the partitioned algorithm.", decides="selection", rule=COUNT)


def facility_location(
        problem: Problem, budget: Budget | str | int, *, variant: Variant = "fl", eta: float = 1.0, nu: float = 1.0,
        kernel: KernelForm = "auto", neighbors: int = 32, index: str = "auto", negatives: Negatives = "clip",
        algorithm: Algorithm = "greedy", epsilon: float = 0.1, parts: int = 8, seed: int = 0) -> Selection:
    """The rows that represent the pool best: greedily, within (1 - 1/e) of the best subset of that size.

    ``gain`` (and ``score``) is what a row added to the objective; ``nearest_target`` is given where there are targets.

    Diagnostics add to those of :func:`siftune.selectors.core.greedy.concluded`: ``kernel`` (its form, resolution,
    neighbours and where it came from), ``represents`` (for each row selected, in order, how many rows it represents
    best; 0 for rows that filled up), ``represented_by_none`` (rows that no selected row represents better than 0, or
    than what was there before), ``algorithm``, and for an approximate algorithm how near it came to greedy, where that
    is affordable.

    Args:
        problem: a ``kernel`` or ``vectors``; FLMI, FLQMI and FLCMI also similarities to targets, FLCG and FLCMI also
            ``existing``. FLQMI needs the similarities only, and holds them: 4 M N bytes.
        budget: rows, share or tokens.
        variant: decided by the selector's name.
        eta: how much relevance to the targets counts: the larger, the less a row's likeness to them limits (FLMI), or
            the more it counts beside their coverage (FLQMI).
        nu: how much of what the model already knows counts as represented; 0 counts nothing.
        kernel: ``auto``, ``dense``, ``sparse`` or ``blockwise``: see
            :func:`siftune.selectors.core.kernel_sources.pool_kernel`.
        neighbors: of a sparse kernel.
        index: how neighbours are found: ``flat`` (exact), ``ivf`` or ``hnsw``; ``auto`` goes by the size of the pool.
        negatives: ``clip`` or ``refuse``.
        algorithm: ``greedy``; ``stochastic`` and ``partitioned`` are approximate, see
            :mod:`siftune.selectors.core.approximate_greedy`.
        epsilon: of the stochastic algorithm.
        parts: of the partitioned algorithm.
        seed: for the approximate algorithms.

    Raises:
        ConfigError: the problem lacks what the variant needs, or an option is out of range.
    """
    _in_range("eta", eta)
    _in_range("nu", nu)
    make = _targets_represented if variant == "flqmi" else _pool_represented
    objective = make(problem, variant, eta, nu, dict(form=kernel, neighbors=neighbors, index=index,
                                                     negatives=negatives))
    run, how = chosen_run(problem, budget, objective, algorithm, epsilon=epsilon, parts=parts, seed=seed,
                          entries=objective.kernel.facts["entries"])
    run.facts["represents"] += [0] * run.filled
    return concluded(problem, run, nested=algorithm == "greedy", **how)


def _pool_represented(problem: Problem, variant: Variant, eta: float, nu: float, options: dict[str, Any]
                      ) -> FacilityLocation:
    """FL, FLMI, FLCG and FLCMI: the pool is to be represented by rows of the pool."""
    to_targets = to_existing = None
    if variant in ("flmi", "flcmi"):
        problem.required_blocks()
        to_targets = problem.summary().best
    if variant in ("flcg", "flcmi"):
        to_existing = problem.existing_best()
    kernel = pool_kernel(problem, **options)
    if variant != "fl" and kernel.shape[0] != len(problem):
        raise ConfigError(f"{variant} needs a kernel [N, N] of the {len(problem)} pool rows, not {kernel.shape}",
                          where="--selector", why="Similarities to targets and existing rows are known for pool rows.")
    if to_targets is not None:
        kernel = kernel.clipped(on_grid(eta * to_targets, kernel))
    return FacilityLocation(kernel, cover=None if to_existing is None else on_grid(nu * to_existing, kernel))


def _targets_represented(problem: Problem, variant: Variant, eta: float, nu: float, options: dict[str, Any]
                         ) -> FacilityLocation:
    """FLQMI: the targets are to be represented by rows of the pool, each of which is to be like some target."""
    problem.required_blocks()
    kernel = target_kernel(problem, options["negatives"])
    best = kernel.data.reshape(len(problem), -1).max(axis=1).astype(np.float64)
    return FacilityLocation(kernel, modular=np.floor(eta * best / kernel.step) * kernel.step)


def _in_range(name: str, value: float) -> None:
    if not 0 <= value <= _MOST_ETA:
        raise ConfigError(f"{name} must be between 0 and {_MOST_ETA:.0f}, not {value}", where=name)


def _selector(name: str, variant: Variant, summary: str, paper: str, needs: Any, suits: str) -> Selector:
    return Selector(SelectorInfo(name=name, summary=summary, paper=paper, needs=needs,
                                 complexity="O(nonzeros of the kernel + picks x columns looked at again)",
                                 suits=suits), facility_location, {"variant": variant},
                    FacilityLocationSettings)


_PRISM = "Kothawade et al., PRISM, arXiv 2103.00128"
_POOLS = "up to 20,000 rows exactly, millions with a sparse kernel"

FL = _selector("facility-location", "fl", "The rows that together represent the whole pool best.",
               "Cornuejols, Fisher & Nemhauser 1977; DELIFT stage 1, arXiv 2411.04425", "kernel", _POOLS)
FLMI = _selector("flmi", "flmi", "The rows that represent the part of the pool that is like the targets.",
                 f"{_PRISM}; DELIFT task-specific, arXiv 2411.04425", "kernel", _POOLS)
FLQMI = _selector("flqmi", "flqmi", "The rows that cover the targets and are each like some target.",
                  _PRISM, "similarities", "any pool whose similarities to the targets fit in memory")
FLCG = _selector("flcg", "flcg", "The rows that represent what the model does not know yet.",
                 f"{_PRISM}; DELIFT continual, arXiv 2411.04425", "kernel", _POOLS)
FLCMI = _selector("flcmi", "flcmi", "The rows that represent what is like the targets and not known yet.",
                  _PRISM, "kernel", _POOLS)
