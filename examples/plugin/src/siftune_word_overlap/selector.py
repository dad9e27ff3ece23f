"""Every k-th row of the ranking, then the rows between: a selector in one file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from siftune.config.options import COUNT, OwnSettings, option
from siftune.selectors import Budget, Problem, Selection, Selector, SelectorInfo
from siftune.selectors.core import ordering
from siftune.selectors.core.constraints import Ledger
from siftune.selectors.core.selection import conclude
from siftune.selectors.topk import aggregate_score


@dataclass(frozen=True)
class StridedTopSettings(OwnSettings):
    stride: int = option(2, "Of the best rows, every so many-th is taken first.", decides="selection", rule=COUNT)


def strided_top(problem: Problem, budget: Budget | str | int, *, stride: int = 2) -> Selection:
    """The best row, the (1 + stride)-th, and so on to the end of the ranking; then from the second on.

    The keyword-only parameters are the settings, with the same defaults (a parameter ``seed`` besides, for a selector
    that draws). The ledger keeps the budget, quotas and whatever must or must not be selected.
    """
    score = aggregate_score(problem)
    ranked = ordering.best_first(score, problem.tiebreak)
    ledger = Ledger(problem, problem.resolve(budget))
    ledger.offer_in_order(np.concatenate([ranked[first::stride] for first in range(min(stride, len(ranked)))]))
    taken = np.array(ledger.taken, dtype=np.int64)
    return conclude(problem, ledger, score=score[taken], gain=score[taken], nearest=None, ties_at_cut=None,
                    row_scores=score, other_rules=True)


STRIDED_TOP = Selector(SelectorInfo(
    name="strided-top", summary="Every k-th of the best rows.", paper="", needs="scores",
    complexity="O(N log N)", suits="any pool",
), strided_top, Settings=StridedTopSettings)
