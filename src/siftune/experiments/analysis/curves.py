"""How much random data would it take? Loss against budget, and the data efficiency of a method.

The random curve is read between its points as linear in the logarithm of the rows, the form in which losses of
fine-tuning fall. It need not fall everywhere; the answer is the smallest number of rows at which it reaches the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Needed:
    """Rows that random needs for a loss.

    Attributes:
        rows: their number; None where the curve does not tell.
        bound: ``above``: more than the largest budget, whose rows are ``limit``; ``below``: random has reached the loss
            at its smallest budget, ``limit`` rows, already; empty where ``rows`` tells.
        limit: see ``bound``.
    """

    rows: float | None
    bound: Literal["", "above", "below"] = ""
    limit: float | None = None


def rows_needed(rows: Sequence[float], losses: Sequence[float], loss: float) -> Needed:
    """Rows at which the random curve first has a loss of at most ``loss``.

    Args:
        rows: K numbers of rows of the random subsets, positive and distinct, in any order.
        losses: their K mean losses.
        loss: to be reached.
    """
    order = np.argsort(np.asarray(rows, dtype=np.float64), kind="stable")
    x, y = np.asarray(rows, dtype=np.float64)[order], np.asarray(losses, dtype=np.float64)[order]
    if not len(x):
        return Needed(None)
    if loss == y[0]:
        return Needed(float(x[0]))
    if loss > y[0]:
        return Needed(None, "below", float(x[0]))
    for k in range(1, len(x)):
        if y[k] <= loss:  # and y[k - 1] > loss
            share = (y[k - 1] - loss) / (y[k - 1] - y[k])
            return Needed(float(np.exp(np.log(x[k - 1]) + share * (np.log(x[k]) - np.log(x[k - 1])))))
    return Needed(None, "above", float(x[-1]))


def efficiency(needed: Needed, rows: float) -> tuple[float | None, str]:
    """(ratio, relation): random needs ``ratio`` times the rows; relation ``=``, ``>`` (at least that) or ``<``.

    Args:
        needed: rows that random needs.
        rows: that the method took for the same loss.
    """
    if needed.rows is not None:
        return needed.rows / rows, "="
    if needed.limit is None:
        return None, ""
    return needed.limit / rows, ">" if needed.bound == "above" else "<"
