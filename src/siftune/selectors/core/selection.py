"""What a selector gives back: the rows in order, the evidence for each, and what happened on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from siftune.selectors.core.constraints import CEILING, DUPLICATE, EXCLUDED, KEPT_FOR_FLOORS, TOO_LONG, Ledger
from siftune.selectors.core.problem import Problem


@dataclass(frozen=True, eq=False)
class Selection:
    """Selected rows, best first; must-includes stand before all others.

    Attributes:
        indices: int64 [B], rows of the pool, distinct.
        score: float64 [B], what the selector ranked the row by (0 where it does not rank).
        nearest_target: int64 [B], the target the row was taken for, -1 where there is none.
        gain: float64 [B], what the row added to the selector's objective when it was taken.
        is_nested: whether every prefix is the selection for that smaller budget.
        row_scores: float64 [N], the number by which every row of the pool was ranked, by selectors that rank all rows
            before they take any; None for those whose scores change with every row taken, and those that rank none.
        state: uint8 [N], what became of every row, see :mod:`siftune.selectors.core.constraints`.
        diagnostics: plain numbers, lists and strings, ready for JSON; see :func:`conclude`.
    """

    indices: np.ndarray
    score: np.ndarray
    nearest_target: np.ndarray
    gain: np.ndarray
    is_nested: bool
    row_scores: np.ndarray | None = None
    state: np.ndarray | None = None
    diagnostics: dict[str, Any] = field(default_factory=dict)

    def ids(self, problem: Problem) -> list[str]:
        """The ids of the selected rows, in order."""
        return [problem.ids[row] for row in map(int, self.indices)]

    def __len__(self) -> int:
        return len(self.indices)


def conclude(problem: Problem, ledger: Ledger, *, score: np.ndarray | None, nearest: np.ndarray | None,
             gain: np.ndarray | None, ties_at_cut: int | None, nested: bool = True,
             row_scores: np.ndarray | None = None, other_rules: bool = False, **more: Any) -> Selection:
    """Turn a finished ledger into a :class:`Selection`.

    Args:
        problem: what was selected from.
        ledger: the rows taken.
        score: float64 [B] per taken row, None for a selector that does not rank.
        nearest: int64 [B] per taken row, None where there are no targets.
        gain: float64 [B] per taken row, None for a selector without an objective.
        ties_at_cut: rows left out that scored exactly as the last one taken, so that mean similarity or id decided.
        nested: whether the order of the selector does not depend on the budget.
        row_scores: float64 [N], where the selector ranks all rows before it takes any.
        other_rules: whether rows were passed over for other reasons than those of the ledger, as by clusters.
        more: diagnostics of this selector alone.

    The diagnostics common to all selectors:
        ``budget``: ``asked``, and the ``rows`` and ``tokens`` given, with ``limit`` and ``kind`` as resolved.
        ``candidates``: rows not excluded. ``excluded``, ``included``: rows by the user's word.
        ``near_duplicates_suppressed``: rows closed because another of their group was taken.
        ``skipped_too_long``: rows whose turn came but that did not fit the remaining tokens.
        ``quotas``: under quotas, for each group its floor and ceiling, and the rows and budget given to it, with
            ``closed_by_ceilings`` and ``refused_for_floors``, the rows whose turn came in vain.
        ``ranked``: what the scores say of the order: ``all rows`` (the open rows sorted by ``row_scores``, ties by
            mean similarity, then id, are the selection), ``with other rules`` (all rows have one, but clusters
            or distances passed some over), ``when taken`` (a row has its score only at the moment it was taken) or
            ``no rows``.
        ``exhausted``: whether the budget was not met because no further row could be taken.
        ``ties_at_cut``, ``zero_gain_share`` (share of rows with gain <= 0), ``per_target_coverage`` (target id to
        number of rows taken for it); None where they do not apply.
    """
    rows = np.array(ledger.taken, dtype=np.int64)
    budget = ledger.budget
    tokens = None if problem.tokens is None else int(problem.tokens[rows].sum())
    nothing = np.zeros(len(rows))
    coverage = None
    if nearest is not None:
        counts = np.bincount(nearest, minlength=len(problem.targets))
        coverage = {target: int(count) for target, count in zip(problem.targets, counts, strict=True)}
    diagnostics: dict[str, Any] = {
        "budget": {"asked": budget.asked, "kind": budget.kind, "limit": budget.limit, "rows": len(rows),
                   "tokens": tokens},
        "candidates": int((~problem.exclude).sum()),
        "excluded": ledger.count(EXCLUDED),
        "included": ledger.included,
        "near_duplicates_suppressed": ledger.count(DUPLICATE),
        "skipped_too_long": ledger.count(TOO_LONG),
        "ranked": ("no rows" if score is None else "when taken" if row_scores is None
                   else "with other rules" if other_rules else "all rows"),
        "exhausted": ledger.remaining > 0 and not ledger.contenders.any(),
        "ties_at_cut": ties_at_cut,
        "zero_gain_share": None if gain is None else float((gain <= 0).mean()),
        "per_target_coverage": coverage,
        **_quotas(ledger),
        **more,
    }
    return Selection(
        indices=rows,
        score=nothing if score is None else score,
        nearest_target=np.full(len(rows), -1) if nearest is None else nearest,
        gain=nothing.copy() if gain is None else gain,
        row_scores=row_scores,
        state=ledger.state.copy(),
        is_nested=nested and budget.kind == "rows" and ledger.quotas is None,
        diagnostics=diagnostics,
    )


def _quotas(ledger: Ledger) -> dict[str, Any]:
    if ledger.quotas is None:
        return {}
    return {"quotas": {quota.name: quota.describe() for quota in ledger.quotas.all},
            "closed_by_ceilings": ledger.count(CEILING), "refused_for_floors": ledger.count(KEPT_FOR_FLOORS)}


def ties_at_cut(ledger: Ledger, score: np.ndarray) -> int:
    """How many rows left out have exactly the score of the last row taken by rank; ``score`` is per pool row."""
    if len(ledger.taken) == ledger.included:
        return 0
    return int((ledger.contenders & (score == score[ledger.taken[-1]])).sum())
