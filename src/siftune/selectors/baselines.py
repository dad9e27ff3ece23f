"""Baselines that look at no target: random, length-matched random, longest first.

A selector that picks shorter or longer rows than random does changes the number of training tokens as well; the
length-matched random subset tells the two apart.
"""

from __future__ import annotations

import numpy as np

from siftune._common import seeds
from siftune._common.errors import ConfigError
from siftune.selectors.core import ordering
from siftune.selectors.core.budget import Budget
from siftune.selectors.core.constraints import Ledger
from siftune.selectors.core.info import Selector, SelectorInfo
from siftune.selectors.core.problem import Problem
from siftune.selectors.core.selection import Selection, conclude, ties_at_cut


def random(problem: Problem, budget: Budget | str | int, *, seed: int = 0) -> Selection:
    """Rows drawn uniformly without replacement. The order depends on the ids and the seed, not on the file's order."""
    ledger = Ledger(problem, problem.resolve(budget))
    ledger.offer_in_order(shuffled(problem, seed, "random"))
    return conclude(problem, ledger, score=None, nearest=None, gain=None, ties_at_cut=None, seed=seed)


def longest_first(problem: Problem, budget: Budget | str | int) -> Selection:
    """The rows with the longest responses (arXiv 2402.04833).

    Raises:
        ConfigError: the problem has no lengths.
    """
    lengths = required_lengths(problem).astype(np.float64)
    ledger = Ledger(problem, problem.resolve(budget))
    ledger.offer_in_order(ordering.best_first(lengths, problem.tiebreak))
    return conclude(problem, ledger, score=lengths[ledger.taken], nearest=None, gain=None,
                    ties_at_cut=ties_at_cut(ledger, lengths), row_scores=lengths)


def shuffled(problem: Problem, seed: int, name: str) -> np.ndarray:
    """int64 [N]: all rows in random order, a function of the set of ids, the seed and the name alone."""
    by_id = np.argsort(ordering.id_rank(problem.ids))
    return by_id[seeds.permutation(len(problem), seed, "selector", name)]


def required_lengths(problem: Problem) -> np.ndarray:
    """int64 [N] response lengths.

    Raises:
        ConfigError: the problem has none.
    """
    if problem.lengths is None:
        raise ConfigError("this selector needs the response length of every row", where="--selector",
                          hint="pass lengths=... (tokens of each response)")
    return problem.lengths


RANDOM = Selector(SelectorInfo(
    name="random", summary="Rows drawn uniformly without replacement, by seed.",
    paper="", needs="nothing", complexity="O(N log N)", suits="any pool; the baseline every method must beat",
), random)

LONGEST = Selector(SelectorInfo(
    name="longest", summary="The rows with the longest responses.",
    paper="arXiv 2402.04833", needs="lengths", complexity="O(N log N)", suits="any pool; a strong simple baseline",
), longest_first)
