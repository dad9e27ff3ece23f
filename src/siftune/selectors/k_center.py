"""K-center: rows such that every row of the pool is near one of them, by greedy farthest-point traversal.

Gonzalez (1985): the next centre is the row farthest from all centres so far; the largest remaining distance is at most
twice the smallest possible. Used as a core set for active learning in arXiv 1708.00489.

A distance to the nearest centre only shrinks as centres are added, so one worked out earlier is an upper bound. A pass
over the streamed vectors brings the distances of all rows up to date; the farthest few thousand rows are then held in
memory, and centres are picked among them for as long as the farthest of them is farther than the bound of every other
row. The picks are those of the plain algorithm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from siftune._common.registry import unknown_name
from siftune.config.options import OwnSettings, option
from siftune.selectors.core import ordering
from siftune.selectors.core.budget import Budget
from siftune.selectors.core.constraints import Ledger
from siftune.selectors.core.info import Selector, SelectorInfo
from siftune.selectors.core.problem import Problem
from siftune.selectors.core.selection import Selection, conclude
from siftune.selectors.core.vectors import HeldVectors, distances_squared, gathered, on_grid

Start = Literal["pool", "targets"]
_FEWEST, _BYTES = 4096, 1 << 22  # rows held between passes: at least so many, and as many as fit so much memory


@dataclass(frozen=True)
class KCenterSettings(OwnSettings):
    start: Start = option("pool", "The first centre: a row of the pool, or the targets, so that rows unlike any of "
                          "them come first.", decides="selection")


def k_center(problem: Problem, budget: Budget | str | int, *, start: Start = "pool") -> Selection:
    """Rows in the order of farthest-point traversal, by the Euclidean distance of their vectors.

    Args:
        problem: vectors; similarities too for ``start="targets"``.
        budget: rows, share or tokens.
        start: ``"pool"``: the first centre is the row with the largest mean similarity to targets, or without them the
            smallest id. ``"targets"``: the targets count as centres already there, at distance sqrt(2 - 2 S), so that
            rows unlike any of them come first.

    Score and gain are the distance to the nearest earlier centre (for a first centre without any, 0). Must-includes are
    centres from the beginning. Diagnostics add ``radius``, the largest distance from a usable row to its nearest
    centre, ``filled_without_distance`` (rows taken although they equal a centre) and ``passes`` over the vectors.

    Raises:
        ConfigError: a problem without vectors, or without similarities where they are needed.
    """
    if start not in ("pool", "targets"):
        raise unknown_name("start", start, ("pool", "targets"), flag="start")
    problem.required_vectors()
    n = len(problem)
    ledger = Ledger(problem, problem.resolve(budget))
    bound = np.full(n, np.inf)  # squared distance to the nearest centre, or more
    if start == "targets":
        problem.required_blocks()
        bound = np.maximum(0.0, 2 - 2 * problem.summary().best)
    centres = gathered(problem, np.array(ledger.taken, dtype=np.int64))
    gain = [0.0] * len(ledger.taken)
    passes, known = 1, 0  # centres that the bounds take into account
    while not ledger.full:
        if len(centres) > known:
            _shrink(problem, bound, centres[known:])
            known, passes = len(centres), passes + 1
        rows = np.flatnonzero(ledger.open)
        most = max(_FEWEST, _BYTES // (8 * centres.shape[1]))
        held = rows[ordering.best(bound[rows], problem.tiebreak[rows], most)]
        outside = np.setdiff1d(rows, held, assume_unique=True)
        horizon = bound[outside].max(initial=-np.inf)
        first_outside = problem.tiebreak[outside[bound[outside] == horizon]].min(initial=n)
        vectors = HeldVectors(gathered(problem, held))
        passes += 1
        near, tiebreak, picked = bound[held], problem.tiebreak[held], []
        while not ledger.full:
            farthest = near.max()
            ties = np.flatnonzero(near == farthest)
            pick = int(ties[tiebreak[ties].argmin()])
            if farthest < horizon or (farthest == horizon and tiebreak[pick] > first_outside) or farthest == -np.inf:
                break
            if ledger.offer(int(held[pick])):
                gain.append(float(np.sqrt(farthest)) if np.isfinite(farthest) else 0.0)
                picked.append(vectors.row(pick))
                near = np.minimum(near, vectors.distances_squared(pick))
                near[~ledger.open[held]] = -np.inf
            else:
                near[pick] = -np.inf
        centres = np.concatenate([centres, *picked])
    if len(centres) > known:
        _shrink(problem, bound, centres[known:])
    score = np.array(gain)
    return conclude(
        problem, ledger, score=score, gain=score.copy(), ties_at_cut=None, passes=passes + 1,
        nearest=None if problem.blocks is None else problem.summary().nearest[ledger.taken],
        radius=round(float(np.sqrt(bound[~problem.exclude].max())), 9), start=start,
        filled_without_distance=int((score[max(1, ledger.included):] == 0).sum()))


def _shrink(problem: Problem, bound: np.ndarray, centres: np.ndarray) -> None:
    """Bring every row's distance to its nearest centre up to date, in one pass."""
    for start, block in problem.vector_stream():
        for at in range(0, len(block), 4096):
            part = on_grid(block[at:at + 4096])
            rows = bound[start + at:start + at + len(part)]
            for first in range(0, len(centres), 512):
                np.minimum(rows, distances_squared(part, centres[first:first + 512]).min(axis=1), out=rows)


K_CENTER = Selector(SelectorInfo(
    name="k-center", summary="Rows that leave no row of the pool far away: the farthest one is always next.",
    paper="Gonzalez 1985; arXiv 1708.00489", needs="vectors", complexity="O(N B D)",
    suits="diversity without a target; any pool whose vectors can be streamed",
), k_center, Settings=KCenterSettings)
