"""What each arm gains over random rows: a posterior from a few measured trainings.

An *arm* is a way to get rows (random rows, a selection method, a fusion) or the untuned model itself. Its *gain* is its
metric less that of random rows, at one budget, in points (hundredths of a metric in [0, 1]). The model is empirical
Bayes (Robbins 1956; Efron and Morris 1973, JASA 68(341)). The score of a training of arm a at budget b, averaged over
the validation rows, is

    y = base + level(b) + effect_a(b) + luck + noise

``base`` is the untuned model, less something of its own, and has a flat prior. ``level`` is what training on random
rows does, as a function of the budget. ``effect_a`` is zero for random rows; for a selection method it is a part common
to all methods, an own part, and ``-follow`` times the level: where random rows do harm, selected rows do less of it.
Functions of the budget are Gaussian processes with correlation rho^|log2(b / b')|, so that a training at a small budget
tells something of a larger one. ``luck`` is the chance of one training. All are in units of a *scale*, in points, which
is not known beforehand: on one task arms differ by half a point, on the next by twenty. Scale, and luck in its units,
are a finite mixture whose weights the scores themselves update; this decides how far estimates are shrunk. ``noise`` is
what the choice of validation rows adds. The part of it that all trainings share (rows are hard or easy for all)
disappears in ``base``; the rest has a variance that the rows tell.

Arms are exchangeable: none is favoured by name, and none is expected to beat random rows before it was measured.
Everything is batched over leading dimensions, in float64, and a Gaussian computation for each part of the mixture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

RANDOM, UNTUNED = 0, -1  # the numbers of these two arms; selection methods are 1, 2, ...


@dataclass(frozen=True)
class Prior:
    """The constants of the model; all but ``scales`` and ``floor`` are in units of the scale.

    Attributes:
        common: Standard deviation of what all selection methods have in common against random rows. That of an arm's
            own part is 1: it defines the unit.
        untuned: Standard deviation of the untuned model around ``base``.
        level: Standard deviation of what random rows do.
        follow: How much of the level the selection methods do not follow.
        random_luck: Luck of a training on random rows, which differ every time, over that of another training.
        common_rho, own_rho, level_rho: Correlations across a doubling of the budget.
        scales: float [C], in points: the scale of each part of the mixture.
        lucks: float [C]: standard deviation of the luck of one training in each part.
        weights: float [C], summing to 1.
        floor: Variance of luck that is there at any scale, in squared points.
    """

    common: float
    untuned: float
    level: float
    follow: float
    random_luck: float
    common_rho: float
    own_rho: float
    level_rho: float
    scales: tuple[float, ...]
    lucks: tuple[float, ...]
    weights: tuple[float, ...]
    floor: float = 0.05

    def covariance(self, arms: np.ndarray, budgets: np.ndarray) -> np.ndarray:
        """float [T, T]: of level + effect at unit scale, without luck; ``arms`` int [T], ``budgets`` float [T] in rows.

        The budget of an untuned model is not looked at.
        """
        steps = np.log2(np.where(arms == UNTUNED, 1.0, budgets))
        steps = np.abs(steps[:, None] - steps)
        chosen, untuned = arms > RANDOM, arms == UNTUNED
        follows = np.where(chosen, 1 - self.follow, 1.0) * ~untuned
        return (np.outer(follows, follows) * self.level**2 * self.level_rho**steps
                + np.outer(chosen, chosen) * self.common**2 * self.common_rho**steps
                + (np.equal.outer(arms, arms) & chosen) * self.own_rho**steps
                + np.outer(untuned, untuned) * self.untuned**2)

    def luck(self, arms: np.ndarray) -> np.ndarray:
        """float [C, T]: variance of the luck of trainings of ``arms``, in squared points."""
        of_random = np.where(arms == RANDOM, self.random_luck, 1.0)
        deviations = np.asarray(self.scales)[:, None] * np.asarray(self.lucks)[:, None] * of_random
        return np.where(arms == UNTUNED, 0.0, deviations**2 + self.floor)


@dataclass(frozen=True)
class Posterior:
    """Gains over random rows, a mixture of Gaussians: float64, for any leading dimensions.

    Attributes:
        weights: [..., C].
        means: [..., C, A], in points.
        before: [C, A, A]: covariance of the gains before any training was seen, in squared points.
        loadings: [C, A, R]: covariance of the gains with R independent contrasts of the trainings.
        precision: [..., C, R]: of those contrasts; the covariance of the gains is
            ``before - loadings diag(precision) loadings^T``.
    """

    weights: np.ndarray
    means: np.ndarray
    before: np.ndarray
    loadings: np.ndarray
    precision: np.ndarray

    @cached_property
    def variances(self) -> np.ndarray:
        """[..., C, A]."""
        explained = np.stack([self.precision[..., c, :] @ np.square(loading).T
                              for c, loading in enumerate(self.loadings)], axis=-2)
        return np.maximum(np.diagonal(self.before, axis1=1, axis2=2) - explained, 1e-12)

    @cached_property
    def deviations(self) -> np.ndarray:
        """[..., C, A]."""
        return np.sqrt(self.variances)

    @cached_property
    def expected(self) -> np.ndarray:
        """[..., A]: expected gains."""
        return self._mixed(self.means)

    @cached_property
    def expected_loss(self) -> np.ndarray:
        """[..., A]: expectation of max(0, -gain): what an arm may cost, times how likely it is to cost it."""
        z = self.means / self.deviations
        return self._mixed(self.deviations * np.exp(-z * z / 2) / np.sqrt(2 * np.pi) - self.means * _below(-z))

    def probability_below(self, gain: float | np.ndarray) -> np.ndarray:
        """[..., A]: P(gain of the arm < ``gain``); ``gain`` a number or [..., A]."""
        at = np.asarray(gain, dtype=np.float64)
        return self._mixed(_below(((at[..., None, :] if at.ndim else at) - self.means) / self.deviations))

    def probability_above_arm(self, arm: np.ndarray) -> np.ndarray:
        """[..., A]: P(gain of each > gain of the wanted arm number ``arm``), int [...], from 1; 0: random rows.

        An arm is above itself with probability 1.
        """
        arm = np.asarray(arm)[..., None]
        index = np.maximum(arm - 1, 0)
        shared = np.stack([
            before[index[..., 0]] - (self.precision[..., c, :] * loading[index[..., 0]]) @ loading.T
            for c, (before, loading) in enumerate(zip(self.before, self.loadings, strict=True))], axis=-2)
        mean, variance = (np.take_along_axis(v, index[..., None, :], axis=-1) for v in (self.means, self.variances))
        against = (arm > 0)[..., None]
        means = self.means - np.where(against, mean, 0.0)
        variances = np.maximum(self.variances + np.where(against, variance - 2 * shared, 0.0), 1e-12)
        above = self._mixed(_below(means / np.sqrt(variances)))
        return np.where(np.arange(self.means.shape[-1]) == arm - 1, 1.0, above)

    def quantile(self, share: float) -> np.ndarray:
        """[..., A]: that share of the probability lies below; by bisection, to a thousandth of a point or better."""
        spread = 10 * self.deviations.max(axis=-2)
        low, high = self.means.min(axis=-2) - spread, self.means.max(axis=-2) + spread
        for _ in range(60):
            middle = (low + high) / 2
            under = self.probability_below(middle) < share
            low, high = np.where(under, middle, low), np.where(under, high, middle)
        return (low + high) / 2

    def _mixed(self, values: np.ndarray) -> np.ndarray:
        return np.einsum("...c,...ca->...a", self.weights, values)


def posterior(observed: np.ndarray, noise: np.ndarray | float, arms: np.ndarray, budgets: np.ndarray, *,
              wanted: np.ndarray, at: float, prior: Prior, expected: np.ndarray | float = 0.0,
              expected_gains: np.ndarray | float = 0.0) -> Posterior:
    """The gains of ``wanted`` arms over random rows at budget ``at``.

    Args:
        observed: float [..., T], in points: the mean score of each training over the validation rows.
        noise: float [...] or a number, in squared points: variance that the choice of validation rows gives to the
            mean of one training, without the part that it has in common with all the others.
        arms: int [T]: the arm of each training, RANDOM, UNTUNED or a number of its own.
        budgets: float [T], in rows; any number for UNTUNED.
        wanted: int [A]: arms, trained or not, but not RANDOM.
        at: The budget in rows.
        prior: Its constants.
        expected: float [..., T], in points: what each score was expected to be before it was seen, but for a constant.
        expected_gains: float [..., A], in points: the same of what is wanted.
    """
    arms, wanted = np.asarray(arms), np.asarray(wanted)
    trained, size = len(arms), len(wanted)
    # Contrasts between trainings: a flat prior on base, and all noise that trainings share, drop out of them.
    contrasts = np.linalg.svd(np.ones((1, trained)))[2][1:]  # [T - 1, T]
    data = (np.asarray(observed, dtype=np.float64) - expected) @ contrasts.T
    noise = np.asarray(noise, dtype=np.float64)
    joint = prior.covariance(np.concatenate([arms, wanted, [RANDOM]]),
                             np.concatenate([np.asarray(budgets, dtype=np.float64), np.full(size + 1, float(at))]))
    less_random = np.concatenate([np.eye(size), -np.ones((size, 1))], axis=1)
    among = contrasts @ joint[:trained, :trained] @ contrasts.T
    across = less_random @ joint[trained:, :trained] @ contrasts.T
    before = less_random @ joint[trained:, trained:] @ less_random.T
    evidence, means, loadings, precisions = [], [], [], []
    for scale, luck, weight in zip(prior.scales, prior.luck(arms), prior.weights, strict=True):
        # In the eigenbasis of everything but the noise, each case of the batch has a diagonal covariance.
        values, basis = np.linalg.eigh(scale**2 * among + (contrasts * luck) @ contrasts.T)
        turned = data @ basis
        spread = np.maximum(values, 0.0) + noise[..., None] + 1e-9
        loading = scale**2 * across @ basis  # [A, T - 1]
        evidence.append(np.log(weight) - 0.5 * (np.log(spread) + turned**2 / spread).sum(axis=-1))
        means.append((turned / spread) @ loading.T + expected_gains)
        loadings.append(loading)
        precisions.append(1 / spread)
    logs = np.stack(evidence, axis=-1)
    weights = np.exp(logs - logs.max(axis=-1, keepdims=True))
    precision = np.stack(precisions, axis=-2)
    return Posterior(weights / weights.sum(axis=-1, keepdims=True), np.stack(means, axis=-2),
                     np.square(prior.scales)[:, None, None] * before, np.stack(loadings),
                     np.broadcast_to(precision, (*weights.shape, precision.shape[-1])))


def _below(z: np.ndarray) -> np.ndarray:
    """The normal distribution function."""
    from scipy.special import ndtr

    return ndtr(z)
