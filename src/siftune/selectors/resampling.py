"""Importance resampling without replacement, by the Gumbel top-k trick (DSIR, arXiv 2302.03169, section 3).

Rows are drawn one after another, each with probability proportional to its weight among those not yet drawn. With one
Gumbel variate g_j per row, the rows of the B largest log w_j + g_j are exactly such a draw. The variate is a function
of the seed and the row's id alone: neither the order of the pool nor which other rows it holds changes it, so excluding
a row only makes the following ones move up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from siftune._common import seeds
from siftune._common.errors import ConfigError
from siftune.config.options import POSITIVE, OwnSettings, option
from siftune.selectors.core import ordering
from siftune.selectors.core.budget import Budget
from siftune.selectors.core.constraints import Ledger
from siftune.selectors.core.info import Selector, SelectorInfo
from siftune.selectors.core.problem import Problem
from siftune.selectors.core.selection import Selection, conclude
from siftune.selectors.topk import Aggregate, aggregate_score


@dataclass(frozen=True)
class ResamplingSettings(OwnSettings):
    temperature: float = option(1.0, "The smaller, the closer to the rows with the highest scores; cosines need one "
                                "of about 0.1.", decides="selection", rule=POSITIVE)
    aggregate: Aggregate = option("max", "How the similarities of a row become its score: its best, their mean, or "
                                  "its best subtask's mean.", decides="selection")


def resampling(problem: Problem, budget: Budget | str | int, *, seed: int = 0, temperature: float = 1.0,
               aggregate: Aggregate = "max") -> Selection:
    """Rows drawn without replacement in proportion to exp(score / temperature).

    Args:
        problem: scores, which count as log importance weights, or similarities.
        budget: rows, share or tokens.
        seed: of the draw.
        temperature: the smaller, the closer to the rows with the highest scores; cosines need one of about 0.1.
        aggregate: how the similarities of a row become its score, as for top-k.

    ``score`` is score / temperature with the noise that ordered the row. Diagnostics add ``seed``, ``temperature`` and
    ``effective_rows``: how many rows of equal weight would spread the weights as evenly, (sum w)^2 / sum w^2.

    Raises:
        ConfigError: neither scores nor similarities, or a temperature that is not positive.
    """
    if not 0 < temperature < np.inf:
        raise ConfigError(f"temperature must be positive: {temperature}", where="temperature",
                          hint='for the rows with the highest scores choose "top-k"')
    score = aggregate_score(problem, aggregate)
    log_weight = score / temperature
    ledger = Ledger(problem, problem.resolve(budget))
    perturbed = log_weight + gumbel(problem.ids, seed, "resampling")
    ledger.offer_in_order(ordering.best_first(perturbed, problem.tiebreak))
    taken = np.array(ledger.taken, dtype=np.int64)
    usable = log_weight[~problem.exclude]
    weight = np.exp(usable - usable.max())
    return conclude(
        problem, ledger, score=perturbed[taken], gain=None, ties_at_cut=None, row_scores=perturbed, seed=seed,
        temperature=temperature,
        nearest=None if problem.blocks is None else problem.summary().nearest[taken],
        effective_rows=round(float(weight.sum() ** 2 / (weight ** 2).sum()), 6))


def gumbel(ids: Iterable[str], seed: int, name: str) -> np.ndarray:
    """float64: one standard Gumbel variate per id, a function of id, seed and name."""
    key = seeds.derive(seed, "selector", name).to_bytes(8, "little")
    digests = b"".join(hashlib.blake2b(row_id.encode(), digest_size=8, key=key).digest() for row_id in ids)
    bits = np.frombuffer(digests, dtype="<u8")
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53  # strictly between 0 and 1
    return -np.log(-np.log(uniform))


RESAMPLING = Selector(SelectorInfo(
    name="resampling", summary="Rows drawn without replacement, the likelier the higher their score.",
    paper="DSIR, arXiv 2302.03169", needs="scores", complexity="O(N log N)",
    suits="any pool; scores that are log importance weights",
), resampling, Settings=ResamplingSettings)
