"""What holds for every registered selector, whatever its method: constraints, diagnostics, order of the pool."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siftune.selectors import SELECTORS, Budget, select
from tests.selectors.instances import Instance, assert_kept, instances, some_budget
from tests.selectors.test_quotas import everything


def cosines(instance: Instance) -> Instance:
    return replace(instance, S=np.tanh(instance.S).tolist())


CASES = instances(constrained=True).map(cosines)


@pytest.mark.parametrize("selector", SELECTORS.names())
@settings(max_examples=25)
@given(CASES, st.integers(0, 2**32 - 1), st.data())
def test_budget_and_constraints_are_kept_and_diagnostics_add_up(selector, instance, seed, data):
    budget, limit, in_tokens = some_budget(instance, data)
    got = select(everything(instance, np.random.default_rng(seed)), budget, selector)
    assert_kept(instance, got, budget, limit, in_tokens)
    assert np.isfinite(got.score).all()
    assert np.isfinite(got.gain).all()


@pytest.mark.parametrize("selector", SELECTORS.names())
@settings(max_examples=15)
@given(CASES, st.integers(0, 2**32 - 1), st.randoms(use_true_random=False), st.data())
def test_the_order_of_the_pool_never_matters(selector, instance, seed, random, data):
    budget, _, _ = some_budget(instance, data)
    order = list(range(instance.n))
    random.shuffle(order)
    one, two = (everything(i, np.random.default_rng(seed)) for i in (instance, instance.permuted(order)))
    assert select(one, budget, selector, seed=3).ids(one) == select(two, budget, selector, seed=3).ids(two)


@pytest.mark.parametrize("selector", SELECTORS.names())
@settings(max_examples=15)
@given(CASES, st.integers(0, 2**32 - 1), st.data())
def test_a_selection_that_says_it_is_nested_is_a_prefix_of_every_larger_one(selector, instance, seed, data):
    usable = instance.n - len(instance.exclude)
    small = data.draw(st.integers(max(1, len(instance.include)), usable))
    large = data.draw(st.integers(small, usable))
    one, two = (select(everything(instance, np.random.default_rng(seed)), Budget.parse(size), selector)
                for size in (small, large))
    assert one.is_nested == two.is_nested
    if one.is_nested:
        assert two.indices[: len(one)].tolist() == one.indices.tolist()
