"""Top-k: the rows with the highest score.

Over similarities, the score of a row is its largest ("doubly greedy": top-B of ``max_q S[q, j]``) or its mean
similarity to the targets, or the largest over the subtasks of its score for the subtask (LESS, arXiv 2402.04333,
section 4). A score-only problem is ranked by its scores.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from siftune._common.errors import ConfigError
from siftune._common.registry import unknown_name
from siftune.selectors.core import ordering
from siftune.selectors.core.budget import Budget
from siftune.selectors.core.constraints import Ledger
from siftune.selectors.core.info import Selector, SelectorInfo
from siftune.selectors.core.problem import Problem
from siftune.selectors.core.selection import Selection, conclude, ties_at_cut

Aggregate = Literal["max", "mean", "subtask-max"]


def top_k(problem: Problem, budget: Budget | str | int, *, aggregate: Aggregate = "max") -> Selection:
    """The rows with the highest aggregate similarity, or score.

    Args:
        problem: similarities, or scores (with ``aggregate="max"``, the only one that makes sense of them).
        budget: rows, share or tokens.
        aggregate: how the M similarities of a row become one number.

    Raises:
        ConfigError: an unknown aggregate, or a problem with neither similarities nor scores.
    """
    score = aggregate_score(problem, aggregate)
    ledger = Ledger(problem, problem.resolve(budget))
    ledger.offer_in_order(ordering.best_first(score, problem.tiebreak))
    taken = np.array(ledger.taken, dtype=np.int64)
    return conclude(
        problem, ledger, score=score[taken], gain=score[taken],
        nearest=None if problem.blocks is None else problem.summary().nearest[taken],
        ties_at_cut=ties_at_cut(ledger, score), row_scores=score)


def aggregate_score(problem: Problem, aggregate: Aggregate = "max") -> np.ndarray:
    """float64 [N]: one number per pool row, higher is better; one streaming pass at most."""
    if aggregate == "max":
        if problem.blocks is not None:
            return problem.summary().best
        if problem.scores is not None:
            return problem.scores
        raise ConfigError("there are neither similarities nor scores to rank the rows by", where="--selector",
                          hint='choose "random", or a representation that scores the rows')
    if aggregate == "mean":
        return problem.summary().mean
    if aggregate == "subtask-max":
        score = np.empty(len(problem))
        for start, block in problem.subtask_stream():
            score[start:start + block.shape[1]] = block.max(axis=0)
        return score
    raise unknown_name("aggregate", aggregate, ("max", "mean", "subtask-max"), flag="aggregate")


_SUITS = "any pool that can be streamed: three numbers a row are kept"

TOP_K = Selector(SelectorInfo(
    name="top-k", summary="The rows most similar to any one target, or with the highest score.",
    paper="doubly greedy: arXiv 2602.14696", needs="scores", complexity="O(MN + N log N)", suits=_SUITS,
), top_k, {"aggregate": "max"})

TOP_K_MEAN = Selector(SelectorInfo(
    name="top-k-mean", summary="The rows most similar to the targets on average.",
    paper="", needs="similarities", complexity="O(MN + N log N)", suits=_SUITS,
), top_k, {"aggregate": "mean"})

TOP_K_SUBTASK = Selector(SelectorInfo(
    name="top-k-subtask", summary="The rows with the highest mean similarity to the targets of their best subtask.",
    paper="LESS, arXiv 2402.04333, section 4", needs="similarities", complexity="O(MN + N log N)", suits=_SUITS,
), top_k, {"aggregate": "subtask-max"})
