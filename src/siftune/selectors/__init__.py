"""Selectors: from similarities or scores to an ordered selection, in NumPy and numba.

>>> import numpy as np
>>> problem = Problem.from_similarities(np.array([[0.9, 0.1, 0.8], [0.2, 0.7, 0.95]]), ids=["a", "b", "c"])
>>> select(problem, 2).ids(problem)
['a', 'c']
"""

from __future__ import annotations

import dataclasses
from typing import Any

from siftune.config.catalogue import SELECTORS
from siftune.config.owned import checked
from siftune.selectors.core.budget import Budget, ResolvedBudget
from siftune.selectors.core.info import Selector, SelectorInfo
from siftune.selectors.core.problem import Problem, Summary
from siftune.selectors.core.selection import Selection


def select(problem: Problem, budget: Budget | ResolvedBudget | str | int, selector: str = "round-robin", *,
           seed: int = 0, **settings: Any) -> Selection:
    """Select rows of a problem by a selector's name.

    Args:
        problem: similarities or scores, and constraints.
        budget: ``"5%"``, ``500``, ``"20ktok"``; see :meth:`Budget.parse`.
        selector: a name in ``SELECTORS``.
        seed: for the selectors that draw.
        settings: the selector's own, such as ``on_taken="forfeit"``; see ``SELECTORS.get(selector).Settings``.

    Raises:
        ConfigError: an unknown name or setting, or a problem that lacks what the selector needs.
    """
    chosen: Selector = SELECTORS.get(selector)
    own = chosen.Settings(**(checked(selector, settings) if settings else {}))
    keywords = {f.name: getattr(own, f.name) for f in dataclasses.fields(own)}
    if chosen.draws:
        keywords["seed"] = seed
    return chosen.run(problem, budget, **chosen.preset, **keywords)


def methods() -> list[SelectorInfo]:
    """The description of every registered selector, by name; those of broken packages are left out with a warning."""
    return [found.info for found in SELECTORS.available().values()]


__all__ = [
    "SELECTORS", "Budget", "Problem", "ResolvedBudget", "Selection", "Selector", "SelectorInfo", "Summary", "methods",
    "select",
]
