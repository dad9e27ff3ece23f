"""The analyses of a study against what can be counted by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siftune._common.errors import DataError
from siftune.experiments.analysis import distance
from siftune.experiments.analysis.break_even import against, against_random
from siftune.experiments.analysis.curves import Needed, efficiency, rows_needed
from siftune.experiments.analysis.overlap import jaccard, jaccard_matrix
from siftune.experiments.analysis.ranks import rho, spearman, spearman_over_rows
from siftune.experiments.analysis.transfer import agreement, relative_gain

FEW = st.lists(st.integers(0, 5), min_size=3, max_size=9)


def rank(values, i):
    """One more than the values below, ties sharing the mean of their ranks."""
    below = sum(v < values[i] for v in values)
    same = sum(v == values[i] for v in values)
    return below + (same + 1) / 2


def correlation(x, y):
    mx, my = sum(x) / len(x), sum(y) / len(y)
    top = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    return top / math.sqrt(sum((a - mx) ** 2 for a in x) * sum((b - my) ** 2 for b in y))


def test_random_needs_as_many_rows_as_a_line_between_its_points_says():
    rows, losses = [100, 10, 1000], [2.0, 3.0, 1.0]  # a loss of 1 less for ten times the rows
    assert rows_needed(rows, losses, 2.5).rows == pytest.approx(math.sqrt(10 * 100))
    assert rows_needed(rows, losses, 2.0).rows == pytest.approx(100)
    assert rows_needed(rows, losses, 1.2).rows == pytest.approx(10 ** 2.8)
    assert rows_needed(rows, losses, 3.0).rows == 10
    assert rows_needed(rows, losses, 0.9) == Needed(None, "above", 1000)
    assert rows_needed(rows, losses, 3.1) == Needed(None, "below", 10)


def test_where_random_gets_worse_the_first_time_counts():
    assert rows_needed([10, 100, 1000, 10_000], [3.0, 2.0, 4.0, 1.0], 2.0).rows == pytest.approx(100)
    assert rows_needed([10, 100, 1000, 10_000], [3.0, 2.5, 4.0, 1.0], 2.0).rows == pytest.approx(10 ** (3 + 2 / 3))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(1, 5), min_size=2, max_size=6), st.floats(1, 5))
def test_the_curve_has_that_loss_at_the_rows_it_says(losses, loss):
    rows = [10.0 * 2**k for k in range(len(losses))]
    found = rows_needed(rows, losses, loss)
    if found.rows is None:
        assert (found.bound == "below") == (loss > losses[0])
        assert loss > losses[0] or loss < min(losses)
    else:
        assert np.interp(math.log(found.rows), np.log(rows), losses) == pytest.approx(loss, abs=1e-6)


def test_efficiency_is_exact_or_says_which_bound_it_is():
    assert efficiency(Needed(300.0), 100) == (3.0, "=")
    assert efficiency(Needed(None, "above", 500.0), 100) == (5.0, ">")
    assert efficiency(Needed(None, "below", 50.0), 100) == (0.5, "<")
    assert efficiency(Needed(None), 100) == (None, "")


def test_jaccard_counts_shared_rows():
    assert jaccard([1, 2, 3], [3, 4]) == 1 / 4
    assert jaccard([], []) == 1
    matrix = jaccard_matrix([[1, 2], [2, 3], [4]])
    np.testing.assert_allclose(matrix, [[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 1]])


@pytest.mark.parametrize(("targets", "rows"), [(1, 4), (2, 2), (4, 4), (2, 3), (3, 2)])
def test_wasserstein_is_the_best_of_all_matchings(targets, rows):
    """Uniform weights: copy both sides to the same number of points; the best plan is then a permutation."""
    cost = np.random.default_rng(targets * 10 + rows).uniform(0, 2, (targets, rows))
    size = math.lcm(targets, rows)
    wide = np.repeat(np.repeat(cost, size // targets, axis=0), size // rows, axis=1)
    best = min(sum(wide[i, p[i]] for i in range(size)) for p in itertools.permutations(range(size))) / size
    assert distance.wasserstein_1(cost) == pytest.approx(best, abs=1e-9)


def test_wasserstein_is_that_of_pot():
    from ot import emd2

    cost = np.random.default_rng(5).uniform(0, 2, (12, 150))
    assert distance.wasserstein_1(cost) == pytest.approx(emd2(np.full(12, 1 / 12), np.full(150, 1 / 150), cost))


def test_nearest_neighbour_distance_by_loops():
    similar = np.random.default_rng(0).uniform(-1, 1, (3, 5))
    expected = sum(min(1 - s for s in line) for line in similar) / 3
    assert distance.nearest_neighbour_distance(distance.cosine_distances(similar)) == pytest.approx(expected)


def test_what_is_no_cosine_has_no_distance():
    with pytest.raises(DataError, match="no distance"):
        distance.cosine_distances(np.array([[0.5, 3.0]]))


@settings(max_examples=60, deadline=None)
@given(FEW, st.randoms())
def test_spearman_is_the_correlation_of_ranks(x, random):
    y = [random.randint(0, 5) for _ in x]
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert rho(np.array(x), np.array(y)) is None
        return
    expected = correlation([rank(x, i) for i in range(len(x))], [rank(y, i) for i in range(len(y))])
    assert rho(np.array(x), np.array(y)) == pytest.approx(expected, abs=1e-9)


def test_the_interval_holds_the_estimate_and_narrows_with_more_pairs():
    rng = np.random.default_rng(1)
    widths = []
    for n in (8, 80):
        x = rng.normal(size=n)
        found = spearman(x, x + rng.normal(size=n), 0.95, 0)
        assert found.low <= found.rho <= found.high
        widths.append(found.high - found.low)
    assert widths[1] < widths[0]
    assert spearman([1, 2], [1, 2], 0.95, 0).rho is None


def test_over_rows_the_positions_stay_and_the_test_rows_vary():
    losses = np.arange(10)[:, None] + np.random.default_rng(0).normal(size=(10, 40)) * 0.1
    clear = spearman_over_rows(np.arange(10), losses, 0.95, 0)
    assert (clear.rho, clear.low, clear.high, clear.n) == (1.0, 1.0, 1.0, 10)
    noise = np.random.default_rng(0).normal(size=(10, 40))
    vague = spearman_over_rows(np.arange(10), noise, 0.95, 0)
    assert vague.rho == pytest.approx(rho(np.arange(10), noise.mean(axis=1)))
    assert vague.high - vague.low > 0.3


def test_over_rows_the_interval_is_that_of_resampled_means():
    losses = np.random.default_rng(3).normal(size=(5, 7))
    found = spearman_over_rows(np.arange(5), losses, 0.9, 0)
    rng = np.random.default_rng(0)
    draws = [rho(np.arange(5), losses[:, rng.integers(0, 7, 7)].mean(axis=1)) for _ in range(4000)]
    np.testing.assert_allclose([found.low, found.high], np.quantile(draws, [0.05, 0.95]), atol=0.11)


def test_transfer_compares_what_both_models_have():
    here, there = {"a": 1.0, "b": 2.0, "c": 3.0, "x": 9.0}, {"a": 5.0, "b": 6.0, "c": 7.0}
    assert agreement(here, there, 0.95, 0).rho == 1
    assert agreement(here, there, 0.95, 0).n == 3
    assert relative_gain(1.5, 2.0) == pytest.approx(0.25)


def test_selection_pays_after_so_many_trainings():
    assert against(100, 10, 40).trainings == 4  # 30 s saved each: 120 s after four
    assert against(100, 40, 10).trainings is None
    assert against(0, 10, 40).trainings == 1
    assert against(None, 10, 40).trainings is None
    assert against(None, 10, 40).saved == 30


def test_against_random_at_the_same_loss():
    assert against_random(100, 10, 5.0, Needed(200.0)).saved == pytest.approx(30)
    bound = against_random(100, 10, 5.0, Needed(None, "above", 200.0))
    assert (bound.saved, bound.at_least, bound.trainings) == (pytest.approx(30), True, 4)
    assert against_random(100, 10, 5.0, Needed(None, "below", 50.0)).trainings is None
