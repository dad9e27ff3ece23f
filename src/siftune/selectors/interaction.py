"""Interaction-aware greedy: rows that serve the targets, less what the rows taken so far serve them already.

Let training on row i move the loss of target m by its similarity s[m, i], to first order. The second-order term of a
set A couples its rows: with c[m] = sum_{j in A} s[m, j], taking row i as well gains

    gain(i) = mean_m s[m, i] - eta mean_m (s[m, i] c[m] + s[m, i]^2 / 2),

which is the difference of f(A) = mean_m (c[m] - eta c[m]^2 / 2). A target has enough when its sum c[m] has reached
1 / eta; beyond that, more of the same counts against a row. With eta = 0 this is top-k by mean similarity. That
interactions matter is reported by arXiv 2605.15675; the form is our own derivation.

Gains are formed one target after the other, so that neither the order of the pool nor the blocks change them. They may
become negative; greedy still fills the budget with the least harmful rows (diagnostics: ``negative_gains``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from siftune._common.errors import ConfigError
from siftune.config.options import NOT_NEGATIVE, OwnSettings, option
from siftune.selectors.core.budget import Budget
from siftune.selectors.core.columns import Similarities
from siftune.selectors.core.constraints import Ledger
from siftune.selectors.core.info import Selector, SelectorInfo
from siftune.selectors.core.problem import Problem
from siftune.selectors.core.selection import Selection, conclude


@dataclass(frozen=True)
class InteractionSettings(OwnSettings):
    eta: float = option(0.01, "What it costs that rows serve the same targets: a target has enough when the "
                        "similarities of the chosen rows to it add up to 1 / eta. 0 is top-k-mean.",
                        decides="selection", rule=NOT_NEGATIVE)


def interaction_greedy(problem: Problem, budget: Budget | str | int, *, eta: float = 0.01) -> Selection:
    """Greedy maximisation of f, one row after another.

    Score and gain are the gain of a row when it was taken. Must-includes count towards c. Diagnostics add ``eta``,
    ``negative_gains``, and ``passes_a_row``: 0 where the similarities are held in memory.

    Raises:
        ConfigError: a score-only problem, or an eta below 0.
    """
    if not 0 <= eta < np.inf:
        raise ConfigError(f"eta must be at least 0, not {eta}", where="eta")
    problem.required_blocks()
    ledger = Ledger(problem, problem.resolve(budget))
    targets, tiebreak = len(problem.targets), problem.tiebreak
    alone = problem.summary().mean.copy()
    stream = Similarities(problem)
    if eta:
        for start, block in stream():
            half = np.zeros(block.shape[1])
            for line in block:
                half += line * line
            alone[start : start + len(half)] -= eta * (half / (2 * targets))
    served = np.zeros(targets)
    shared = np.zeros(len(problem))  # mean_m s[m, i] c[m]
    gain: list[float] = []

    def add(row: int) -> None:
        nonlocal served
        if not eta:
            return
        served = served + stream.column(row)
        for start, block in stream():
            total = np.zeros(block.shape[1])
            for line, weight in zip(block, served.tolist(), strict=True):
                total += line * weight
            shared[start : start + len(total)] = total / targets

    for row in ledger.taken:
        gain.append(float(alone[row] - eta * shared[row]))
        add(row)
    while not ledger.full:
        value = alone - eta * shared
        value[~ledger.open] = -np.inf
        best = value.max()
        ties = np.flatnonzero(value == best)
        pick = int(ties[tiebreak[ties].argmin()])
        if ledger.offer(pick):
            gain.append(float(best))
            add(pick)
    found = np.array(gain)
    return conclude(problem, ledger, score=found, gain=found.copy(), nearest=problem.summary().nearest[ledger.taken],
                    ties_at_cut=None, eta=eta, negative_gains=int((found < 0).sum()),
                    passes_a_row=0 if stream.held or not eta else 2)


INTERACTION_GREEDY = Selector(SelectorInfo(
    name="interaction-greedy", summary="The rows most similar to the targets on average, less what is served already.",
    paper="our derivation, after arXiv 2605.15675", needs="similarities", complexity="O(B M N)",
    suits="up to some 100 million similarities in memory; above, two passes over them for every row chosen",
), interaction_greedy, Settings=InteractionSettings)
