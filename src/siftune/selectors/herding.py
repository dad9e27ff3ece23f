"""Kernel herding: rows whose mean vector follows that of the pool, or of the targets (Chen et al., arXiv 1203.3472).

With the mean mu and the rows x_1 .. x_t taken so far, the next row has the largest <x, mu> - sum_i <x, x_i> / (t + 1):
like the mean, unlike what is there. For the linear kernel of the vectors this descends on the distance between mu and
the mean of the selection; rows are taken once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from siftune._common.registry import unknown_name
from siftune.config.options import OwnSettings, option
from siftune.selectors.core import ordering
from siftune.selectors.core.budget import Budget
from siftune.selectors.core.constraints import Ledger
from siftune.selectors.core.info import Selector, SelectorInfo
from siftune.selectors.core.problem import Problem
from siftune.selectors.core.selection import Selection, conclude
from siftune.selectors.core.vectors import gathered, on_grid, similarities

Towards = Literal["pool", "targets"]
_CHUNK = 4096


@dataclass(frozen=True)
class HerdingSettings(OwnSettings):
    towards: Towards = option("pool", "Whose mean is followed.", decides="selection")


def herding(problem: Problem, budget: Budget | str | int, *, towards: Towards = "pool") -> Selection:
    """Rows one after another, so that their mean stays near that of the pool, or of the targets.

    Args:
        problem: vectors; similarities too for ``towards="targets"``. The vectors are held in memory, as float32.
        budget: rows, share or tokens.
        towards: what mu is the mean of: the rows that are not excluded, or the targets, for which <x, mu> is the mean
            similarity of x.

    Score and gain are the herding objective when the row was taken. Diagnostics add ``towards`` and, for the pool,
    ``distance_to_mean``, the distance between mu and the mean of the selected rows.

    Raises:
        ConfigError: a problem without vectors, or without similarities where they are needed.
    """
    if towards not in ("pool", "targets"):
        raise unknown_name("value of towards", towards, ("pool", "targets"), flag="towards")
    problem.required_vectors()
    ledger = Ledger(problem, problem.resolve(budget))
    by_id = np.argsort(ordering.id_rank(problem.ids))  # sums must not depend on the order of the pool
    order = by_id[~problem.exclude[by_id]]
    vectors = gathered(problem, order)
    mean = np.add.reduce(vectors, axis=0, dtype=np.float64) / len(order)
    if towards == "targets":
        problem.required_blocks()
        attraction = problem.summary().mean[order]
    else:
        attraction = np.concatenate([similarities(vectors[at:at + _CHUNK], on_grid(mean[None]))[:, 0]
                                     for at in range(0, len(order), _CHUNK)])
    tiebreak = problem.tiebreak[order]
    place = np.full(len(problem), -1, dtype=np.int64)
    place[order] = np.arange(len(order))
    repulsion = np.zeros(len(order))
    total = np.zeros(vectors.shape[1])
    gain: list[float] = []
    for count, row in enumerate(ledger.taken):
        gain.append(float(attraction[place[row]] - repulsion[place[row]] / (count + 1)))
        total += vectors[place[row]]
        _add(repulsion, vectors, place[row])
    shut = ~ledger.open[order]
    while not ledger.full:
        objective = attraction - repulsion / (len(ledger.taken) + 1)
        objective[shut] = -np.inf
        best = objective.max()
        ties = np.flatnonzero(objective == best)
        pick = int(ties[tiebreak[ties].argmin()])
        if ledger.offer(int(order[pick])):
            gain.append(float(best))
            total += vectors[pick]
            _add(repulsion, vectors, pick)
            shut = ~ledger.open[order]
        shut[pick] = True
    score = np.array(gain)
    more: dict[str, Any] = {} if towards == "targets" else {
        "distance_to_mean": round(float(np.linalg.norm(total / len(ledger.taken) - mean)), 9)}
    return conclude(
        problem, ledger, score=score, gain=score.copy(), ties_at_cut=None, towards=towards,
        nearest=None if problem.blocks is None else problem.summary().nearest[ledger.taken], **more)


def _add(repulsion: np.ndarray, vectors: np.ndarray, pick: int) -> None:
    for at in range(0, len(vectors), _CHUNK):
        repulsion[at:at + _CHUNK] += similarities(vectors[at:at + _CHUNK], vectors[pick:pick + 1])[:, 0]


HERDING = Selector(SelectorInfo(
    name="herding", summary="Rows whose mean vector follows that of the pool, or of the targets.",
    paper="kernel herding, arXiv 1203.3472", needs="vectors", complexity="O(N B D)",
    suits="pools of up to some 100,000 rows, whose vectors fit in memory",
), herding, Settings=HerdingSettings)
