"""Intervals, p-values and verdicts against plain formulas and simulation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import t as student

from siftune._common import seeds
from siftune._common.errors import ConfigError, DataError
from siftune.evaluation import statistics
from siftune.evaluation.statistics import holm, interval, paired_difference, variance_parts, verdict


def uniform(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return (seeds.random_bits(math.prod(shape), seed, "test") / 2.0**64).reshape(shape)


def normal(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return uniform((*shape, 12), seed).sum(axis=-1) - 6


Rule = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Losses of both sides, [comparisons, seeds, examples] -> bool [comparisons]: are they called different?"""

CORNERS = [  # seeds of the method and of random, random's variance over the method's, examples, their part
    (2, 2, 50, 8, 0.1), (2, 2, 1, 200, 0.1), (2, 5, 1, 32, 0.1), (3, 2, 50, 32, 0.1), (5, 2, 50, 32, 0.1),
    (5, 2, 15, 8, 3.0), (3, 3, 6, 8, 0.1), (3, 3, 50, 32, 3.0), (4, 3, 50, 32, 0.1), (3, 5, 50, 8, 3.0),
    (5, 5, 50, 8, 3.0), (5, 5, 50, 32, 0.1), (5, 5, 1, 8, 10.0),
]


def identical_blocks(count: int, kind: str, method: int, random: int, ratio: float, examples: int, part: float,
          ) -> tuple[np.ndarray, np.ndarray]:
    """``count`` pairs of sides that nothing separates. ``part``: variance that comes from examples over that from
    seeds."""
    bits = np.random.default_rng([method, random, int(ratio), examples, int(10 * part)])
    sides = []
    hard = bits.uniform(-0.9, 0.9, (count, 1, examples))
    for n, spread in ((method, 1.0), (random, math.sqrt(ratio))):
        by_seed = bits.standard_normal((count, n, 1))
        if kind == "binary":
            right = 0.3 * (1 + (0.25 * spread / math.sqrt(ratio) * by_seed).clip(-0.7, 0.7)) * (1 + hard)
            sides.append((bits.random((count, n, examples)) >= right).astype(np.float64))
            continue
        rows = (bits.standard_t(3, (count, 1, examples)) / math.sqrt(3) if kind == "heavy" else
                bits.standard_normal((count, 1, examples)))
        side = spread * by_seed + math.sqrt(part * examples * (1 / method + ratio / random) / 2) * rows
        if kind == "interaction":
            side = side + spread * math.sqrt(examples) * bits.standard_normal((count, n, examples))
        sides.append(side)
    return sides[0], sides[1]


def of_siftune(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return np.abs((ours.mean(1) - theirs.mean(1)).mean(1)) > variance_parts(ours, theirs).half_width(0.95)


def with_pooled_degrees(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """What stood here before, its bootstrap taken for normal: one Student's quantile for the seeds of both sides."""
    V = variance_parts(ours, theirs).variances
    quantiles = student.ppf(0.975, ours.shape[1] + theirs.shape[1] - 2), 1.96
    half = np.sqrt((V[:, 0] + V[:, 1]) * quantiles[0] ** 2 + V[:, 2] * quantiles[1] ** 2)
    return np.abs((ours.mean(1) - theirs.mean(1)).mean(1)) > half


def false_verdicts(rule: Rule, kind: str) -> list[tuple[float, float]]:
    """(better or worse, better) of each corner, in standard errors of the simulation above 5% and 2.5%."""
    count, found = 3000, []
    for corner in CORNERS:
        ours, theirs = identical_blocks(count, kind, *corner)
        different, lower = rule(ours, theirs), ours.mean((1, 2)) < theirs.mean((1, 2))
        found.append(tuple((share - level) / math.sqrt(level * (1 - level) / count) for share, level in (
            (different.mean(), 0.05), ((different & lower).mean(), 0.025))))
    return found


@pytest.mark.parametrize("kind", ["normal", "interaction", "heavy", "binary"])
def test_where_nothing_separates_the_sides_no_more_than_the_level_is_called_better_or_worse(kind: str) -> None:
    """benchmarks/calibration.py has all combinations of 2 to 5 seeds; its worst corners are here. Three standard errors
    stand for the luck of a simulation."""
    assert max(max(one) for one in false_verdicts(of_siftune, kind)) < 3


def test_the_simulation_would_see_degrees_of_freedom_that_are_pooled() -> None:
    found = false_verdicts(with_pooled_degrees, "normal")
    assert sum(two_sided > 3 for two_sided, _ in found) >= 6
    assert max(two_sided for two_sided, _ in found) > 20


def test_a_large_difference_is_found_with_three_seeds() -> None:
    ours, theirs = identical_blocks(2000, "normal", 3, 3, 6, 32, 0.3)
    assert of_siftune(ours - 8 * math.sqrt(6), theirs).mean() > 0.8


@pytest.mark.parametrize(("method", "random", "examples"), [(3, 5, 40), (2, 2, 8), (4, 2, 12)])
def test_the_interval_is_made_of_three_parts_with_their_own_degrees_of_freedom(
        method: int, random: int, examples: int) -> None:
    ours, theirs = normal((method, examples), 1), normal((random, examples), 2) + 3 * normal((random, 1), 3)
    square, p_square = 0.0, 0.0
    found = paired_difference(ours, theirs, 0.9)
    assert found.p_value is not None
    by_row = [sum(o) / method - sum(t) / random for o, t in zip(ours.T.tolist(), theirs.T.tolist(), strict=True)]
    for values in ([sum(r) / examples for r in ours.tolist()], [sum(r) / examples for r in theirs.tolist()], by_row):
        n, mean = len(values), sum(values) / len(values)
        V = sum((v - mean) ** 2 for v in values) / (n - 1) / n
        square += V * student.ppf(0.95, n - 1) ** 2
        p_square += V * student.isf(found.p_value / 2, n - 1) ** 2
    assert found.interval.mean == pytest.approx(sum(by_row) / examples)
    assert found.interval.high - found.interval.mean == pytest.approx(math.sqrt(square))
    assert found.interval.mean - found.interval.low == pytest.approx(math.sqrt(square))
    assert abs(found.interval.mean) == pytest.approx(math.sqrt(p_square)), "at the level p it just reaches zero"


def test_interval_p_value_and_verdict_agree() -> None:
    seen = set()
    for trial, shift in itertools.product(range(30), (0.0, 0.3, 1.0)):
        ours, theirs = normal((3, 12), 4 * trial) * 0.3 - shift, 0.2 * normal((4, 12), 4 * trial + 1)
        found = paired_difference(ours, theirs, 0.95)
        assert found.p_value is not None
        apart = not found.interval.low <= 0 <= found.interval.high
        assert apart == (found.p_value < 0.05) == (found.verdict != "no different")
        seen.add(found.verdict)
    assert {"better", "no different"} <= seen


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
    found = paired_difference(ours, theirs, 0.95)
    assert found.interval.mean == pytest.approx((ours.mean(0) - theirs.mean(0)).mean())
    assert found.interval.high - found.interval.low < 0.05
    assert found.verdict == "better"
    assert paired_difference(theirs, ours, 0.95).verdict == "worse"
    assert paired_difference(ours, theirs, 0.95, lower_is_better=False).verdict == "worse"
    assert paired_difference(ours, ours, 0.95).verdict == "no different"


def test_a_difference_within_the_spread_of_seeds_is_no_difference_however_alike_the_rows() -> None:
    noise = 0.01 * normal((3, 200), 1)
    ours, theirs = noise + np.array([[0.0], [0.5], [-0.4]]), noise + np.array([[0.1], [-0.3], [0.6]])
    found = paired_difference(ours, theirs, 0.95)
    assert paired_difference(ours[0], theirs[0], 0.95).p_value < 0.001, "of these two models the rows are sure"  # type: ignore[operator]
    assert found.verdict == "no different"


def test_a_single_seed_carries_no_verdict_but_no_seeds_at_all_may() -> None:
    ours, theirs = 0.1 * normal((3, 50), 1), 1 + 0.1 * normal((1, 50), 2)
    for one, other in ((ours, theirs), (theirs, ours), (theirs, theirs)):
        found = paired_difference(one, other, 0.95)
        assert (found.verdict, found.p_value, found.covers) == ("single training", None, "rows")
    both = paired_difference(ours, theirs, 0.95).interval
    rows = ours.mean(0) - theirs[0]
    assert both.high - both.mean == pytest.approx(student.ppf(0.975, 49) * rows.std(ddof=1) / math.sqrt(50))
    found = paired_difference(ours, theirs[0], 0.95)
    assert (found.verdict, found.covers) == ("better", "trainings and rows")


@pytest.mark.parametrize(("examples", "outcome"), [(1, "no different"), (5, "no different"), (6, "better")])
def test_few_examples_cannot_carry_a_verdict(examples: int, outcome: str) -> None:
    """No test of the signs of five differences reaches 5%: all alike have a chance of 2 in 32."""
    found = paired_difference(np.zeros((3, examples)), np.ones((3, examples)), 0.95)
    assert (found.p_value, found.verdict) == (2.0 ** (1 - examples), outcome)


def test_an_adjusted_p_value_decides_by_the_same_rule() -> None:
    assert verdict(-1.0, 0.04, 0.95) == verdict(1.0, 0.04, 0.95, lower_is_better=False) == "better"
    assert verdict(1.0, 0.04, 0.95) == "worse"
    assert verdict(-1.0, 0.06, 0.95) == "no different"
    assert verdict(-1.0, None, 0.95) == "single training"


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
        difference = paired_difference(sides[0], sides[1], 0.9)
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
    assert holm([0.01, None, 0.04]) == pytest.approx([0.02, None, 0.04]), "what is not tested costs nothing"


def test_mistakes_are_explained() -> None:
    with pytest.raises(DataError, match="different examples"):
        paired_difference(np.ones((2, 3)), np.ones((2, 4)), 0.95)
    with pytest.raises(DataError, match="NaN or infinite"):
        interval(np.array([[1.0, np.nan]]), 0.95, seed=0)
    with pytest.raises(DataError, match="nothing to compare"):
        interval(np.ones((0, 3)), 0.95, seed=0)
    with pytest.raises(ConfigError, match="--confidence"):
        interval(np.ones((2, 3)), 95, seed=0)
