"""The posterior of gains against its definition, entry by entry, and against integration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from siftune.evaluation.gains import RANDOM, UNTUNED, Posterior, Prior, posterior

PRIOR = Prior(common=0.8, untuned=1.5, level=2.0, follow=0.4, random_luck=1.4, common_rho=0.9, own_rho=0.8,
              level_rho=0.85, scales=(1.0, 6.0), lucks=(0.5, 0.2), weights=(0.7, 0.3))
ARMS = np.array([RANDOM, 1, 2, 1, RANDOM, UNTUNED, 1])
BUDGETS = np.array([100.0, 100.0, 100.0, 400.0, 400.0, 1.0, 400.0])
SCORES = np.array([50.0, 53.0, 49.0, 55.5, 51.0, 47.0, 56.5])


def covariance(a: tuple[int, float], b: tuple[int, float], same: bool, scale: float, luck: float) -> float:
    """Of the scores of two trainings without noise, as the module's docstring has it; ``same``: one training twice."""
    (arm, budget), (other, its) = a, b
    found = 1e7  # base: flat
    if UNTUNED in (arm, other):
        return found + (scale**2 * PRIOR.untuned**2 if arm == other else 0.0)
    steps = abs(math.log2(budget / its))
    follows = [1.0 if one == RANDOM else 1 - PRIOR.follow for one in (arm, other)]
    found += scale**2 * math.prod(follows) * PRIOR.level**2 * PRIOR.level_rho**steps
    if RANDOM not in (arm, other):
        found += scale**2 * PRIOR.common**2 * PRIOR.common_rho**steps
        found += scale**2 * PRIOR.own_rho**steps if arm == other else 0.0
    if same:
        found += (scale * luck * (PRIOR.random_luck if arm == RANDOM else 1.0)) ** 2 + PRIOR.floor
    return found


def brute_force(noise: float, shared: float, at: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights [2], means [2, 3] and covariances [2, 3, 3] of the gains of arms 1, 2 and untuned, by conditioning."""
    trained = list(zip(ARMS.tolist(), BUDGETS.tolist(), strict=True))
    asked = [(1, at), (2, at), (UNTUNED, 1.0), (RANDOM, at)]
    less_random = np.hstack([np.eye(3), -np.ones((3, 1))])
    logs, means, covariances = [], [], []
    for scale, luck, weight in zip(PRIOR.scales, PRIOR.lucks, PRIOR.weights, strict=True):
        among = np.array([[covariance(a, b, i == j, scale, luck) + shared + (noise if i == j else 0.0)
                           for j, b in enumerate(trained)] for i, a in enumerate(trained)])
        across = np.array([[covariance(a, b, False, scale, luck) for b in trained] for a in asked])
        before = np.array([[covariance(a, b, False, scale, luck) for b in asked] for a in asked])
        centred = SCORES - 50.0
        logs.append(math.log(weight) - 0.5 * np.linalg.slogdet(among)[1]
                    - 0.5 * centred @ np.linalg.solve(among, centred))
        means.append(less_random @ across @ np.linalg.solve(among, centred))
        covariances.append(less_random @ (before - across @ np.linalg.solve(among, across.T)) @ less_random.T)
    weights = np.exp(np.array(logs) - max(logs))
    return weights / weights.sum(), np.array(means), np.array(covariances)


def found(noise: float, at: float, scores: np.ndarray = SCORES) -> Posterior:
    return posterior(scores, noise, ARMS, BUDGETS, wanted=np.array([1, 2, UNTUNED]), at=at, prior=PRIOR)


@pytest.mark.parametrize(("noise", "shared", "at"), [(0.01, 0.0, 400.0), (4.0, 9.0, 400.0), (25.0, 4.0, 1600.0)])
def test_the_posterior_is_that_of_conditioning_the_joint_distribution(noise: float, shared: float, at: float) -> None:
    ours = found(noise, at)
    weights, means, covariances = brute_force(noise, shared, at)
    np.testing.assert_allclose(ours.weights, weights, atol=2e-4)
    np.testing.assert_allclose(ours.means, means, atol=2e-3)
    np.testing.assert_allclose(ours.variances, np.diagonal(covariances, axis1=1, axis2=2), rtol=1e-3, atol=2e-3)


def test_what_is_said_of_a_posterior_is_what_draws_from_it_say() -> None:
    ours, (weights, means, covariances) = found(4.0, 400.0), brute_force(4.0, 0.0, 400.0)
    draw = np.random.default_rng(0)
    draws = np.concatenate([draw.multivariate_normal(mean, part, size=round(400_000 * weight))
                            for weight, mean, part in zip(weights, means, covariances, strict=True)])
    np.testing.assert_allclose(ours.expected, draws.mean(axis=0), atol=0.03)
    np.testing.assert_allclose(ours.expected_loss, np.maximum(-draws, 0).mean(axis=0), atol=0.02)
    for gain in (-1.0, 0.0, 2.0):
        np.testing.assert_allclose(ours.probability_below(gain), (draws < gain).mean(axis=0), atol=0.005)
    for share in (0.05, 0.5, 0.95):
        np.testing.assert_allclose(ours.probability_below(ours.quantile(share)), share, atol=1e-6)
    with_random = np.hstack([np.zeros((len(draws), 1)), draws])
    for arm in range(4):
        above = (draws > with_random[:, [arm]]).mean(axis=0)
        np.testing.assert_allclose(np.delete(ours.probability_above_arm(np.array(arm)), slice(arm - 1, arm)) if arm
                                   else ours.probability_above_arm(np.array(0)),
                                   np.delete(above, arm - 1) if arm else above, atol=0.005)


def test_a_batch_is_its_cases_one_by_one() -> None:
    scores = SCORES + np.random.default_rng(1).normal(size=(2, 3, len(SCORES)))
    noise = np.array([[0.5, 1.0, 2.0], [4.0, 8.0, 16.0]])
    front = np.array([[0, 1, 2], [3, 1, 0]])
    batch = posterior(scores, noise, ARMS, BUDGETS, wanted=np.array([1, 2, UNTUNED]), at=400.0, prior=PRIOR)
    for i, j in itertools.product(range(2), range(3)):
        one = found(noise[i, j], 400.0, scores[i, j])
        for name in ("weights", "means", "variances", "expected", "expected_loss"):
            np.testing.assert_allclose(getattr(batch, name)[i, j], getattr(one, name), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(batch.quantile(0.05)[i, j], one.quantile(0.05), atol=1e-6)
        np.testing.assert_allclose(batch.probability_above_arm(front)[i, j], one.probability_above_arm(front[i, j]),
                                   rtol=1e-9)


def test_what_was_expected_moves_the_gains_where_nothing_was_seen_and_not_where_all_was() -> None:
    expected = np.array([0.0, 3.0, 1.0, 3.0, 0.0, 0.0, 3.0])
    gains = np.array([3.0, 1.0, 0.0])

    def with_noise(noise: float, **more: np.ndarray) -> np.ndarray:
        return posterior(SCORES, noise, ARMS, BUDGETS, wanted=np.array([1, 2, UNTUNED]), at=400.0, prior=PRIOR,
                         **more).expected

    np.testing.assert_allclose(with_noise(1e9, expected=expected, expected_gains=gains), gains, atol=1e-3)
    told, untold = with_noise(0.0, expected=expected, expected_gains=gains), with_noise(0.0)
    assert abs(told[0] - untold[0]) < 0.5  # of 3: two trainings of the arm at this budget against a guess
