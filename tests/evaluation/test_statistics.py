"""Intervals, p-values and verdicts against enumeration and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from siftune._common import seeds
from siftune._common.errors import ConfigError, DataError
from siftune.evaluation import statistics
from siftune.evaluation.statistics import holm, interval, paired_difference, sign_flip_p_value


def uniform(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return (seeds.random_bits(math.prod(shape), seed, "test") / 2.0**64).reshape(shape)


def normal(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return uniform((*shape, 12), seed).sum(axis=-1) - 6


@pytest.mark.parametrize("examples", [1, 4, 10])
def test_the_p_value_is_the_share_of_sign_patterns_as_extreme_as_the_data(examples: int) -> None:
    differences = np.round(normal((examples,), examples) + 0.3, 1)  # rounded, so that there are ties
    observed = abs(math.fsum(differences))
    patterns = list(itertools.product((1, -1), repeat=examples))
    extreme = sum(abs(math.fsum(s * d for s, d in zip(p, differences, strict=True))) >= observed - 1e-9
                  for p in patterns)
    assert sign_flip_p_value(differences, seed=0) == extreme / len(patterns)


def test_the_sampled_p_value_agrees_with_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = normal((14,), 3) + 0.4
    exact = sign_flip_p_value(differences, seed=0)
    monkeypatch.setattr(statistics, "_EXACT_UP_TO", 0)
    sampled = sign_flip_p_value(differences, seed=0)
    assert sampled == sign_flip_p_value(differences, seed=0)
    assert abs(sampled - exact) < 4 * math.sqrt(exact * (1 - exact) / 9999)
    assert sampled == round(sampled * 10_000) / 10_000  # (k + 1) / (n + 1)


def test_the_sampled_p_value_is_never_zero() -> None:
    assert sign_flip_p_value(np.ones(100), seed=0) == 1 / 10_000


def test_one_seed_gives_the_plain_bootstrap_over_examples() -> None:
    values = uniform((9,), 1)
    drawn = seeds.random_bits(9 * 1000, 5, "bootstrap", "examples", 0) % np.uint64(9)
    means = [np.mean([values[int(i)] for i in resample]) for resample in drawn.reshape(1000, 9)]
    counts = next(statistics._counts(9, 5, "examples"))
    np.testing.assert_allclose(counts @ values / 9, means, rtol=1e-12)
    found = interval(values, 0.9, seed=5)
    assert found.mean == pytest.approx(values.mean())
    assert abs(found.low - np.quantile(means, 0.05)) < 0.03
    assert abs(found.high - np.quantile(means, 0.95)) < 0.03
    assert (found.seeds, found.examples) == (1, 9)


def test_two_levels_are_resampled_independently_and_seeds_expanded() -> None:
    """Spread of the resampled means = expanded seed part + example part, for an additive matrix."""
    by_seed, by_example = normal((6, 1), 1), normal((1, 40), 2)
    found = interval(by_seed + by_example, 0.95, seed=0)
    expansion = math.sqrt(6 / 5) * 2.5706 / 1.95996  # Student's t with 5 degrees of freedom over the normal quantile
    spread = math.sqrt(expansion**2 * by_seed.var() / 6 + by_example.var() / 40)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * spread, rel=0.06)


def test_what_examples_share_cancels_out_in_the_paired_difference() -> None:
    hardness = 10 * uniform((60,), 1)
    ours, theirs = hardness + 0.01 * normal((3, 60), 2), hardness + 0.2 + 0.01 * normal((4, 60), 3)
    found = paired_difference(ours, theirs, 0.95, seed=0)
    assert found.interval.mean == pytest.approx((ours.mean(0) - theirs.mean(0)).mean())
    assert found.interval.high - found.interval.low < 0.05
    assert found.verdict == "better"
    assert paired_difference(theirs, ours, 0.95, seed=0).verdict == "worse"
    assert paired_difference(ours, theirs, 0.95, seed=0, lower_is_better=False).verdict == "worse"
    assert paired_difference(ours, ours, 0.95, seed=0).verdict == "no different"


def test_a_difference_within_the_spread_of_seeds_is_no_difference_however_small_its_p_value() -> None:
    noise = 0.01 * normal((3, 200), 1)
    ours, theirs = noise + np.array([[0.0], [0.5], [-0.4]]), noise + np.array([[0.1], [-0.3], [0.6]])
    found = paired_difference(ours, theirs, 0.95, seed=0)
    assert found.p_value < 0.001
    assert found.verdict == "no different"


def test_a_single_seed_carries_no_verdict_but_no_seeds_at_all_may() -> None:
    ours, theirs = 0.1 * normal((3, 50), 1), 1 + 0.1 * normal((1, 50), 2)
    assert paired_difference(ours, theirs, 0.95, seed=0).verdict == "no different"
    assert paired_difference(ours, theirs[0], 0.95, seed=0).verdict == "better"


def test_few_examples_cannot_carry_a_verdict() -> None:
    found = paired_difference(np.zeros((3, 4)), np.ones((3, 4)), 0.95, seed=0)
    assert (found.p_value, found.exact) == (2 / 16, True)
    assert found.verdict == "no different"


@pytest.mark.parametrize("count", [3, 8])
def test_intervals_cover_and_verdicts_stay_silent_where_there_is_nothing(
        count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both levels matter: seeds differ by 0.2, examples by 1, nothing separates the two sides."""
    monkeypatch.setattr(statistics, "_DRAWS", 1000)
    covered = covered_difference = verdicts = 0
    trials = 80
    for trial in range(trials):
        base = 10 * trial
        hardness = normal((40,), base)
        sides = [hardness + 0.2 * normal((count, 1), base + k) + 0.3 * normal((count, 40), base + k + 4)
                 for k in (1, 2)]
        one = interval(sides[0], 0.9, seed=trial)
        difference = paired_difference(*sides, 0.9, seed=trial)
        covered += one.low <= 0 <= one.high
        covered_difference += difference.interval.low <= 0 <= difference.interval.high
        verdicts += difference.verdict != "no different"
    assert covered >= 0.82 * trials
    assert 0.82 * trials <= covered_difference
    assert verdicts <= 0.18 * trials


def test_the_same_seed_gives_the_same_interval_and_another_one_another() -> None:
    values = uniform((3, 20), 4)
    assert interval(values, 0.95, seed=1) == interval(values, 0.95, seed=1)
    assert interval(values, 0.95, seed=1) != interval(values, 0.95, seed=2)


def test_holm_adjusts_in_order_and_keeps_the_order_given() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_mistakes_are_explained() -> None:
    with pytest.raises(DataError, match="different examples"):
        paired_difference(np.ones((2, 3)), np.ones((2, 4)), 0.95, seed=0)
    with pytest.raises(DataError, match="NaN or infinite"):
        interval(np.array([[1.0, np.nan]]), 0.95, seed=0)
    with pytest.raises(DataError, match="nothing to compare"):
        interval(np.ones((0, 3)), 0.95, seed=0)
    with pytest.raises(ConfigError, match="--confidence"):
        interval(np.ones((2, 3)), 95, seed=0)
