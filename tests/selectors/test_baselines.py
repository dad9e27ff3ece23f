from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siftune._common.errors import ConfigError
from siftune.selectors import Problem, select
from siftune.selectors.baselines import random


def pool(n: int = 2000, seed: int = 0, **rest: object) -> Problem:
    """Rows with long-tailed response lengths, as instruction pools have."""
    lengths = np.random.default_rng(seed).lognormal(4.5, 0.9, n).astype(np.int64) + 1
    return Problem(ids=[f"r{i:05d}" for i in range(n)], lengths=lengths, tokens=lengths + 20, **rest)


def test_random_depends_on_the_seed_and_on_nothing_else():
    one, again, other = (select(pool(), 50, "random", seed=seed).indices.tolist() for seed in (1, 1, 2))
    assert one == again
    assert set(one) != set(other)


def test_random_takes_every_row_equally_often():
    """400 draws of 5 from 20: each row is expected 100 times, with a standard deviation of 8.7."""
    problem = pool(20)
    times = np.bincount(np.concatenate([random(problem, 5, seed=s).indices for s in range(400)]), minlength=20)
    assert times.sum() == 2000
    assert np.abs(times - 100).max() < 40


def test_excluding_a_row_does_not_reshuffle_the_others():
    problem = pool(100)
    full = select(problem, 100, "random", seed=4).ids(problem)
    without = problem.constrained(must_exclude=[full[3]])
    assert select(without, 99, "random", seed=4).ids(without) == full[:3] + full[4:]


def test_longest_takes_the_longest_responses_first():
    problem = pool(100)
    got = select(problem, 10, "longest")
    assert problem.lengths is not None
    assert got.indices.tolist() == sorted(range(100), key=lambda i: (-problem.lengths[i], i))[:10]
    assert got.score.tolist() == problem.lengths[got.indices].tolist()


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 150), st.integers(1, 300), st.booleans())
def test_length_matched_random_has_the_total_and_the_quantiles_of_the_reference(seed, budget, references, longer):
    problem = pool(1500, seed)
    assert problem.lengths is not None
    rng = np.random.default_rng(seed)
    biased = np.sort(problem.lengths)[750 if longer else 0:1500 if longer else 750]  # another half than the pool's
    reference = rng.choice(biased, references)
    problem = pool(1500, seed, reference_lengths=reference)
    got = select(problem, budget, "length-matched-random", seed=seed)
    lengths = problem.lengths[got.indices]
    assert len(set(got.indices.tolist())) == len(got) == budget
    assert got.diagnostics["mean_length"] == lengths.mean()
    assert got.diagnostics["reference_mean_length"] == reference.mean()
    if budget >= 40 and references >= 40:
        # Bins hold a twentieth to an eighth of the reference: no part of the distribution is off by more than one.
        grid = np.quantile(reference, np.linspace(0.1, 0.9, 5))
        off = [abs((lengths <= x).mean() - (reference <= x).mean()) for x in grid]
        assert max(off) < 0.13
        assert abs(lengths.mean() / reference.mean() - 1) < 0.02


def test_length_matched_random_equals_the_total_length_of_an_equally_large_reference():
    problem = pool(4000)
    reference = select(problem, 400, "longest").score.astype(np.int64) // 3
    matched = pool(4000, reference_lengths=reference)
    got = select(matched, 400, "length-matched-random", seed=5)
    assert matched.lengths is not None
    assert matched.lengths[got.indices].sum() == reference.sum()
    assert got.diagnostics["exchanged"] < 100  # still a random sample: few of the 400 were chosen for their length
    assert select(matched, 400, "length-matched-random", seed=6).ids(matched) != got.ids(matched)


def test_length_matched_random_takes_the_nearest_lengths_where_a_bin_runs_dry():
    lengths = np.array([10] * 20 + [100] * 3 + [90] * 5)
    problem = Problem(ids=[f"{i:02d}" for i in range(28)], lengths=lengths, reference_lengths=np.array([100] * 10))
    got = select(problem, 6, "length-matched-random")
    assert sorted(lengths[got.indices]) == [90, 90, 90, 100, 100, 100]
    assert got.diagnostics["slots_from_other_bins"] == 3


def test_length_matched_random_fills_a_token_budget():
    problem = pool(2000, reference_lengths=np.array([30, 40, 50, 60, 70] * 10))
    got = select(problem, "20ktok", "length-matched-random")
    assert problem.tokens is not None
    assert 20_000 - problem.tokens.min() - 5 <= got.diagnostics["budget"]["tokens"] <= 20_000
    assert abs(got.diagnostics["mean_length"] - 50) < 5


@pytest.mark.parametrize("selector", ["longest", "length-matched-random"])
def test_lengths_that_are_missing_are_asked_for(selector):
    with pytest.raises(ConfigError, match="needs the response length") as caught:
        select(Problem(ids=["a"]), 1, selector)
    assert "lengths=" in (caught.value.hint or "")


def test_reference_lengths_that_are_missing_are_asked_for():
    with pytest.raises(ConfigError, match="lengths to match"):
        select(pool(10), 1, "length-matched-random")
