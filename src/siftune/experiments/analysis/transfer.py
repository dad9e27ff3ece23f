"""Do subsets that were chosen with one model help another? Order and gains on the same subsets."""

from __future__ import annotations

from collections.abc import Mapping

from siftune.experiments.analysis.ranks import RankCorrelation, spearman


def agreement(losses: Mapping[str, float], other: Mapping[str, float], confidence: float, seed: int) -> RankCorrelation:
    """Rank correlation of the methods' losses on two models, over the methods that both have.

    Args:
        losses, other: method (or baseline) -> mean loss.
        confidence, seed: of the interval, see :func:`~siftune.experiments.analysis.ranks.spearman`.
    """
    names = sorted(set(losses) & set(other))
    return spearman([losses[n] for n in names], [other[n] for n in names], confidence, seed)


def relative_gain(loss: float, random: float) -> float:
    """How much lower than random's a loss is, as a share of random's: 0.2 for a fifth lower, negative for higher."""
    return (random - loss) / random if random else 0.0
