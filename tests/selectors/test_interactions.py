"""Interaction-aware greedy and BIDS' pick against their definitions as plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siftune._common.errors import ConfigError
from siftune.selectors import Problem, select
from siftune.selectors import bids as bids_module
from siftune.selectors.bids import bids
from siftune.selectors.core import columns
from siftune.selectors.core.spread import Spread
from siftune.selectors.interaction import interaction_greedy
from tests.selectors.instances import Instance, Shelf, instances, some_budget

WHOLE = st.integers(1, 50)


def best_open(instance: Instance, shelf: Shelf, value) -> int | None:
    """The row that may be taken with the largest value, by the total order."""
    free = {row: value(row) for row in range(instance.n) if shelf.free(row) and shelf.fits(row)}
    return instance.ranked(free)[0] if free else None


def greedy_oracle(instance: Instance, eta: float, limit: int, in_tokens: bool) -> tuple[list[int], list[float]]:
    """Every gain anew for every pick, target after target: O(B N (B + M))."""
    shelf = Shelf(instance, limit, in_tokens)
    included, shelf.taken = shelf.taken, []
    gains: list[float] = []

    def gain(row: int) -> float:
        shared = half = 0.0
        for line in instance.S:
            c = 0.0
            for other in shelf.taken:
                c += line[other]
            shared += line[row] * c
            half += line[row] * line[row]
        return (instance.mean(row) - eta * (half / (2 * instance.m))) - eta * (shared / instance.m)

    while True:
        row = included[len(shelf.taken)] if len(shelf.taken) < len(included) else best_open(instance, shelf, gain)
        if row is None:
            return shelf.taken, gains
        gains.append(gain(row))
        shelf.taken.append(row)


@settings(max_examples=80, deadline=None)
@given(instances(constrained=True), WHOLE, st.sampled_from([0.0, 0.01, 0.3, 2.0]), st.data())
def test_interaction_greedy_is_its_definition(instance, block_rows, eta, data):
    budget, limit, in_tokens = some_budget(instance, data)
    got = interaction_greedy(instance.problem(block_rows), budget, eta=eta)
    rows, gains = greedy_oracle(instance, eta, limit, in_tokens)
    assert got.indices.tolist() == rows
    np.testing.assert_allclose(got.gain, gains, rtol=1e-12, atol=1e-12)
    assert got.nearest_target.tolist() == [instance.nearest(row) for row in rows]
    assert got.diagnostics["negative_gains"] == sum(gain < 0 for gain in got.gain.tolist())


@settings(max_examples=40, deadline=None)
@given(instances(), st.sampled_from([0.0, 0.05, 1.0]), st.data())
def test_its_gains_are_the_differences_of_the_second_order_objective(instance, eta, data):
    budget, _, _ = some_budget(instance, data, in_tokens=False)
    got = interaction_greedy(instance.problem(), budget, eta=eta)
    c = np.cumsum(np.array(instance.S)[:, got.indices], axis=1)
    f = (c - eta * c**2 / 2).mean(axis=0)
    np.testing.assert_allclose(got.gain, np.diff(f, prepend=0), rtol=1e-7, atol=1e-9)


@given(instances(constrained=True), st.data())
def test_without_interaction_it_is_top_k_by_the_mean(instance, data):
    budget, _, _ = some_budget(instance, data)
    expected = select(instance.problem(), budget, "top-k-mean")
    assert select(instance.problem(), budget, "interaction-greedy", eta=0).indices.tolist() == expected.indices.tolist()


def test_a_target_that_has_enough_gives_way_to_the_other():
    S = np.array([[0.9, 0.8, 0.7, 0.0, 0.0], [0.0, 0.0, 0.0, 0.5, 0.4]])
    problem = Problem.from_similarities(S, ids=list("abcde"))
    assert select(problem, 3, "interaction-greedy", eta=0.01).ids(problem) == ["a", "b", "c"]
    assert select(problem, 3, "interaction-greedy", eta=0.9).ids(problem) == ["a", "d", "e"]


def test_similarities_too_many_for_memory_are_read_again(monkeypatch):
    S = np.random.default_rng(0).standard_normal((4, 60))
    held = select(Problem.from_similarities(S, block_rows=7), 20, "interaction-greedy", eta=0.2)
    monkeypatch.setattr(columns, "IN_MEMORY", 1)
    read = select(Problem.from_similarities(S, block_rows=9), 20, "interaction-greedy", eta=0.2)
    assert read.indices.tolist() == held.indices.tolist()
    assert (held.diagnostics["passes_a_row"], read.diagnostics["passes_a_row"]) == (0, 2)


def test_an_eta_below_zero_is_refused():
    with pytest.raises(ConfigError, match="at least 0"):
        interaction_greedy(Problem.from_similarities(np.eye(2)), 1, eta=-1.0)


def bids_oracle(instance: Instance, Z: list[list[float]], limit: int, in_tokens: bool,
                ) -> tuple[list[int], list[float]]:
    shelf = Shelf(instance, limit, in_tokens)
    included, shelf.taken = shelf.taken, []
    values: list[float] = []

    def value(row: int) -> float:
        found = []
        for line in Z:
            total = 0.0
            for other in shelf.taken:
                total += line[other]
            found.append(line[row] - total / max(1, len(shelf.taken)))
        return max(found)

    while True:
        row = included[len(shelf.taken)] if len(shelf.taken) < len(included) else best_open(instance, shelf, value)
        if row is None:
            return shelf.taken, values
        values.append(value(row))
        shelf.taken.append(row)


def z_scores(instance: Instance) -> np.ndarray:
    """Of the rows that may be taken, by NumPy's own mean and deviation."""
    S = np.array(instance.S)
    usable = [row for row in range(instance.n) if row not in instance.exclude]
    sd = S[:, usable].std(axis=1, keepdims=True)
    flat = np.ptp(S[:, usable], axis=1, keepdims=True) == 0
    return np.where(flat, 0, (S - S[:, usable].mean(axis=1, keepdims=True)) / np.where(flat, 1, sd))


@settings(max_examples=80, deadline=None)
@given(instances(constrained=True), WHOLE, st.integers(1, 5), st.data())
def test_bids_is_its_definition_however_short_its_lists(instance, block_rows, length, data):
    budget, limit, in_tokens = some_budget(instance, data)
    usable = np.ones(instance.n, dtype=bool)
    usable[instance.exclude] = False
    S = np.array(instance.S)
    Z = Spread.of(lambda: iter([(0, S[:, usable])])).z_scores(S)
    np.testing.assert_allclose(Z, z_scores(instance), rtol=1e-8, atol=1e-8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bids_module, "_COLUMN_BYTES", 8 * instance.m**2 * length)
        got = bids(instance.problem(block_rows), budget)
    rows, values = bids_oracle(instance, Z.tolist(), limit, in_tokens)
    assert got.indices.tolist() == rows
    np.testing.assert_allclose(got.score, values, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(list(got.diagnostics["mean_z"].values()), Z[:, rows].mean(axis=1), atol=1e-6)


def test_bids_serves_a_target_whose_similarities_are_small_as_well():
    S = np.array([[0.9, 0.8, 0.7, 0.1, 0.1, 0.1], [0.02, 0.02, 0.02, 0.03, 0.05, 0.02]])
    problem = Problem.from_similarities(S, ids=list("abcdef"), targets=["loud", "quiet"])
    got = select(problem, 2, "bids")
    assert got.ids(problem) == ["e", "a"]
    assert got.nearest_target.tolist() == [1, 0]


@pytest.mark.parametrize("selector", ["bids", "interaction-greedy"])
def test_scores_alone_are_refused(selector):
    with pytest.raises(ConfigError, match="similarities"):
        select(Problem.from_scores(np.arange(3.0)), 1, selector)
