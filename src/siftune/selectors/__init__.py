"""Selectors: from similarities or scores to an ordered selection, in NumPy and numba.

>>> import numpy as np
>>> problem = Problem.from_similarities(np.array([[0.9, 0.1, 0.8], [0.2, 0.7, 0.95]]), ids=["a", "b", "c"])
>>> select(problem, 2).ids(problem)
['a', 'c']
"""

from __future__ import annotations

from typing import Any

from siftune._common.registry import Registry, unknown_name
from siftune.selectors.core.budget import Budget, ResolvedBudget
from siftune.selectors.core.info import Selector, SelectorInfo
from siftune.selectors.core.problem import Problem, Summary
from siftune.selectors.core.selection import Selection

SELECTORS = Registry("selector", {
    "top-k": "siftune.selectors.topk:TOP_K",
    "top-k-mean": "siftune.selectors.topk:TOP_K_MEAN",
    "top-k-subtask": "siftune.selectors.topk:TOP_K_SUBTASK",
    "round-robin": "siftune.selectors.round_robin:ROUND_ROBIN",
    "round-robin-subtask": "siftune.selectors.round_robin:ROUND_ROBIN_SUBTASK",
    "unbalanced-ot": "siftune.selectors.transport:UNBALANCED_OT",
    "balanced-ot": "siftune.selectors.transport:BALANCED_OT",
    "knn-uniform": "siftune.selectors.knn:KNN_UNIFORM",
    "knn-kde": "siftune.selectors.knn:KNN_KDE",
    "k-center": "siftune.selectors.k_center:K_CENTER",
    "herding": "siftune.selectors.herding:HERDING",
    "k-means-balanced": "siftune.selectors.k_means:K_MEANS_BALANCED",
    "deita": "siftune.selectors.deita:DEITA",
    "resampling": "siftune.selectors.resampling:RESAMPLING",
    "random": "siftune.selectors.baselines:RANDOM",
    "length-matched-random": "siftune.selectors.length_matched:LENGTH_MATCHED_RANDOM",
    "longest": "siftune.selectors.baselines:LONGEST",
    "facility-location": "siftune.selectors.facility_location:FL",
    "flmi": "siftune.selectors.facility_location:FLMI",
    "flqmi": "siftune.selectors.facility_location:FLQMI",
    "flcg": "siftune.selectors.facility_location:FLCG",
    "flcmi": "siftune.selectors.facility_location:FLCMI",
    "graph-cut": "siftune.selectors.graph_cut:GRAPH_CUT",
    "log-det": "siftune.selectors.log_det:LOG_DET",
    "coverage": "siftune.selectors.coverage:COVERAGE",
})


def select(problem: Problem, budget: Budget | ResolvedBudget | str | int, selector: str = "round-robin", *,
           seed: int = 0, **options: Any) -> Selection:
    """Select rows of a problem by a selector's name.

    Args:
        problem: similarities or scores, and constraints.
        budget: ``"5%"``, ``500``, ``"20ktok"``; see :meth:`Budget.parse`.
        selector: a name in ``SELECTORS``.
        seed: for the selectors that draw.
        options: the selector's own, such as ``on_taken="forfeit"``.

    Raises:
        ConfigError: an unknown name or option, or a problem that lacks what the selector needs.
    """
    chosen: Selector = SELECTORS.get(selector)
    allowed = chosen.options
    for option in options:
        if option not in allowed:
            raise unknown_name(f"option of selector {selector!r}:", option, [o for o in allowed if o != "seed"])
    if "seed" in allowed:
        options["seed"] = seed
    return chosen.run(problem, budget, **chosen.preset, **options)


def methods() -> list[SelectorInfo]:
    """The description of every registered selector, by name."""
    return [SELECTORS.get(name).info for name in SELECTORS.names()]


__all__ = [
    "SELECTORS", "Budget", "Problem", "ResolvedBudget", "Selection", "Selector", "SelectorInfo", "Summary", "methods",
    "select",
]
