"""Facility location and its relatives against plain greedy over the definition."""

from __future__ import annotations

import json
import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csc_array

from siftune._common.errors import ConfigError, SiftuneError
from siftune.selectors import Problem, Selection, select
from siftune.selectors.core.greedy import best_run
from siftune.selectors.core.grid import Vectors
from siftune.selectors.core.kernel_sources import dense_kernel, pool_kernel
from siftune.selectors.facility_location import FacilityLocation
from tests.selectors.instances import Instance, assert_kept, some_budget
from tests.selectors.submodular import (
    Case,
    Plain,
    best_plain,
    cases,
    down,
    facility,
    in_steps,
    plain_greedy,
    step_of,
)

VARIANTS = ["facility-location", "flmi", "flqmi", "flcg", "flcmi"]


def definition(case: Case, variant: str, eta: float, nu: float):
    """f in grid steps, and the step."""
    S, n = case.instance.S, case.instance.n
    to_target = [max(line[i] for line in S) for i in range(n)]
    to_existing = [max(line[i] for line in case.existing) for i in range(n)]
    if variant == "flqmi":
        step = step_of(S)
        s = in_steps(S, step)
        modular = [math.floor(eta * max(line[j] for line in s)) for j in range(n)]
        return facility(s, [2**60] * len(s), [0] * len(s), modular), step
    step = step_of(case.kernel)
    clip = [down(eta * t, step) for t in to_target] if variant in ("flmi", "flcmi") else [2**60] * n
    cover = [down(nu * t, step) for t in to_existing] if variant in ("flcg", "flcmi") else [0] * n
    return facility(in_steps(case.kernel, step), clip, cover, [0] * n), step


def agrees(got: Selection, expected: Plain, step: float, case: Case) -> None:
    ids = case.instance.ids
    assert got.indices.tolist() == expected.rows
    assert got.gain.tolist() == [gain * step for gain in expected.gains]
    said = got.diagnostics
    assert said["objective"] == expected.value * step
    assert said["filled_after_zero_gain"] == expected.filled
    assert said["ties_at_cut"] == expected.ties
    assert len(said["nearly_selected"]) == min(5, len(expected.left))
    best_left = sorted(-gain * step for gain in expected.left.values())[:5]
    assert json.loads(json.dumps(said)) == said
    if said["rule"] == "gain":
        assert [-left["gain"] for left in said["nearly_selected"]] == best_left
        nearly = case.instance.ranked(expected.left)[:5]
        assert [left["id"] for left in said["nearly_selected"]] == [ids[row] for row in nearly]


@settings(max_examples=300)
@given(cases(), st.sampled_from(VARIANTS), st.sampled_from(["dense", "sparse", "blockwise"]), st.integers(1, 20),
       st.sampled_from([0.0, 0.3, 1.0, 1.7]), st.sampled_from([0.0, 0.5, 1.0]), st.data())
def test_every_variant_is_plain_greedy_over_its_definition(case, variant, form, block_rows, eta, nu, data):
    budget, limit, in_tokens = some_budget(case.instance, data)
    f, step = definition(case, variant, eta, nu)
    expected, per_token = best_plain(case.instance, f, limit, in_tokens)
    got = select(case.problem(block_rows, sparse=form == "sparse"), budget, variant, eta=eta, nu=nu,
                 kernel="blockwise" if form == "blockwise" else "auto")
    agrees(got, expected, step, case)
    assert got.diagnostics["rule"] == ("gain per token" if per_token else "gain")
    assert got.nearest_target.tolist() == [case.instance.nearest(row) for row in expected.rows]
    assert sum(got.gain) == pytest.approx(f(expected.rows[:len(expected.rows) - expected.filled]) * step)


@settings(max_examples=100)
@given(st.integers(1, 6), cases(), st.data())
def test_a_kernel_may_be_rectangular(R, case, data):
    """R rows to be represented that are not the pool's."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    kernel = (rng.integers(-4, 9, (R, case.instance.n)) / 8).tolist()
    budget, limit, in_tokens = some_budget(case.instance, data)
    step = step_of(kernel)
    expected, _ = best_plain(case.instance, facility(in_steps(kernel, step), [2**60] * R, [0] * R,
                                                     [0] * case.instance.n), limit, in_tokens)
    for given_as in (np.array(kernel), csc_array(np.array(kernel)), np.array(kernel, dtype=np.float16)):
        problem = case.problem(without=("kernel", "vectors"), kernel=given_as)
        agrees(select(problem, budget, "facility-location"), expected, step, case)
    if case.instance.n != R:
        with pytest.raises(ConfigError, match="needs a kernel"):
            select(case.problem(without=("kernel",), kernel=np.array(kernel)), budget, "flcg")


@settings(max_examples=100)
@given(cases(), st.sampled_from(VARIANTS), st.booleans(), st.data())
def test_what_each_row_represents_is_where_it_first_raised_the_cover(case, variant, sparse, data):
    budget, _, _ = some_budget(case.instance, data, in_tokens=False)
    got = select(case.problem(sparse=sparse), budget, variant, eta=1.0, nu=0.5)
    _, step = definition(case, variant, 1.0, 0.5)
    represents = got.diagnostics["represents"]
    assert len(represents) == len(got)
    rows = len(case.instance.S) if variant == "flqmi" else case.instance.n
    assert sum(represents) + got.diagnostics["represented_by_none"] == rows
    if variant == "facility-location":
        s = in_steps(case.kernel, step)
        by_hand = [0] * len(got)
        for line in s:
            similar = [line[j] for j in got.indices]
            if max(similar) > 0:
                by_hand[similar.index(max(similar))] += 1
        filled = got.diagnostics["filled_after_zero_gain"]
        assert represents == by_hand
        assert represents[len(got) - filled:] == [0] * filled


ALL = [*VARIANTS, "graph-cut", "log-det", "coverage"]


@settings(max_examples=200)
@given(cases(), st.sampled_from(ALL), st.sampled_from(["auto", "sparse", "blockwise"]), st.integers(1, 20),
       st.booleans(), st.randoms(use_true_random=False), st.data())
def test_neither_the_order_of_the_pool_nor_blocks_matter(case, selector, form, block_rows, from_vectors, random, data):
    budget, _, _ = some_budget(case.instance, data)
    order = list(range(case.instance.n))
    random.shuffle(order)
    options = {"neighbors": 3, "kernel": form} if selector not in ("log-det", "coverage") else {}
    if not from_vectors and selector == "graph-cut":
        options.pop("kernel")  # a directed kernel cannot be turned around block by block
    without = ("kernel",) if from_vectors else ()
    got = []
    for each, width in ((case, 4096), (case.permuted(order), block_rows)):
        problem = each.problem(width, without=without)
        selection = select(problem, budget, selector, **options)
        got.append((selection.ids(problem), selection.gain.tolist(), selection.diagnostics["nearly_selected"]))
    assert got[0] == got[1]


@settings(max_examples=150)
@given(cases(), st.sampled_from(ALL), st.data())
def test_budgets_and_constraints_hold_and_smaller_selections_are_prefixes(case, selector, data):
    budget, limit, in_tokens = some_budget(case.instance, data)
    problem = case.problem()
    got = select(problem, budget, selector)
    rows, instance = got.indices.tolist(), case.instance
    assert len(set(rows)) == len(rows) == len(got.score) == len(got.gain) == len(got.nearest_target)
    assert rows[:len(instance.include)] == instance.include
    assert not set(rows) & set(instance.exclude)
    for group in instance.groups:
        assert len(set(group) & set(rows) - set(instance.include)) <= 1
    free = [r for r in range(instance.n) if r not in rows and r not in instance.exclude
            and not any(r in group and set(group) & set(rows) for group in instance.groups)]
    spent = sum(instance.tokens[r] for r in rows)
    if in_tokens:
        assert spent <= limit
        assert all(spent + instance.tokens[r] > limit for r in free)
    else:
        assert len(rows) == limit or not free
        assert got.is_nested
        fewer = select(problem, max(1, len(instance.include), limit // 2), selector)
        assert rows[:len(fewer)] == fewer.indices.tolist()
    assert json.loads(json.dumps(got.diagnostics)) == got.diagnostics


def test_a_directed_kernel_is_not_turned_around():
    """Row 2 helps both others, nobody helps row 2."""
    kernel = np.array([[0.0, 0.0, 0.9], [0.0, 0.0, 0.9], [0.0, 0.0, 0.0]])
    problem = Problem.from_scores(np.zeros(3), kernel=kernel, ids=["a", "b", "c"])
    sparse = Problem.from_scores(np.zeros(3), kernel=csc_array(kernel), ids=["a", "b", "c"])
    for each in (problem, sparse):
        got = select(each, 2, "facility-location")
        assert got.ids(each) == ["c", "a"]
        assert got.diagnostics["filled_after_zero_gain"] == 1
        assert got.diagnostics["represents"] == [2, 0]


def test_zero_gains_are_filled_by_likeness_to_the_targets_and_then_by_id_not_by_place():
    S = np.array([[0.1, 0.5, 0.5, 0.2]])
    problem = Problem.from_similarities(S, ids=["d", "c", "b", "a"], kernel=np.zeros((4, 4)))
    got = select(problem, 3, "facility-location")
    assert got.ids(problem) == ["b", "c", "a"]
    assert got.diagnostics["filled_after_zero_gain"] == 3
    assert got.diagnostics["ties_at_cut"] == 1
    assert got.diagnostics["zero_gain_share"] == 1.0


def test_under_a_token_budget_gain_per_token_alone_would_be_fooled_and_so_would_gain():
    """A cheap row of little use fits first and leaves no room for the useful one; then the other way around."""
    greedy_for_ratio = Problem.from_scores(np.zeros(2), kernel=np.diag([0.1, 8.0]), tokens=np.array([1, 100]))
    got = select(greedy_for_ratio, "100 tokens", "facility-location")
    assert got.indices.tolist() == [1]
    assert got.diagnostics["rule"] == "gain"
    assert set(got.diagnostics["objective_by_rule"]) == {"gain per token", "gain"}
    greedy_for_gain = Problem.from_scores(np.zeros(4), kernel=np.diag([1.0, 0.75, 0.75, 0.75]),
                                          tokens=np.array([90, 30, 30, 30]))
    got = select(greedy_for_gain, "90 tokens", "facility-location")
    assert sorted(got.indices.tolist()) == [1, 2, 3]
    assert got.diagnostics["rule"] == "gain per token"


def test_a_large_lazy_run_is_plain_greedy_to_the_last_bit():
    """2,000 rows full of ties, where gains are kept up to date for every row instead of lazily."""
    rng = np.random.default_rng(7)
    kernel = rng.integers(0, 4, (2000, 2000)).astype(np.float32) / 4
    ids = [f"{i:04d}" for i in rng.permutation(2000)]
    got = select(Problem.from_scores(np.zeros(2000), kernel=kernel, ids=ids), 40, "facility-location")
    cover, taken = np.zeros(2000), []
    for _ in range(40):
        gains = np.maximum(kernel - cover[:, None], 0).sum(axis=0, dtype=np.float64)
        gains[taken] = -1
        row = min(np.flatnonzero(gains == gains.max()), key=lambda r: ids[r])
        taken.append(int(row))
        cover = np.maximum(cover, kernel[:, row])
    assert got.indices.tolist() == taken


@settings(max_examples=40)
@given(st.integers(30, 120), st.integers(1, 30), st.integers(0, 2**32 - 1), st.booleans())
def test_gains_that_are_kept_up_to_date_are_those_that_are_computed_anew(n, groups, seed, given_kernel):
    """Groups of like rows make picks that change few rows: kept for symmetric kernels, computed anew for directed."""
    rng = np.random.default_rng(seed)
    X = 2 * rng.standard_normal((groups, 8))[rng.integers(0, groups, n)] + rng.standard_normal((n, 8))
    X = (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)
    K = X.astype(np.float64) @ X.astype(np.float64).T
    K = np.maximum(K, K.T).astype(np.float32)
    directed = Problem.from_scores(np.zeros(n), kernel=K.astype(np.float64))
    vectors = Problem.from_scores(np.zeros(n), vectors=lambda: iter([(0, X)]))
    anew = select(directed if given_kernel else vectors, n // 2, "facility-location",
                  **({} if given_kernel else {"kernel": "blockwise"}))
    kept = select(Problem.from_scores(np.zeros(n), kernel=K) if given_kernel else vectors, n // 2,
                  "facility-location")
    assert kept.indices.tolist() == anew.indices.tolist()
    assert kept.gain.tolist() == anew.gain.tolist()
    assert kept.diagnostics["nearly_selected"] == anew.diagnostics["nearly_selected"]
    objective = FacilityLocation(pool_kernel(Problem.from_scores(np.zeros(n), kernel=K)))
    best_run(directed, n // 2, objective)
    again = objective.kernel.gains(np.arange(n), objective.cover)
    assert objective.gains(np.arange(n)).tolist() == again.tolist()


def test_gains_are_kept_up_to_date_once_that_saves_work():
    rng = np.random.default_rng(0)
    X = 2 * rng.standard_normal((40, 16))[rng.integers(0, 40, 800)] + rng.standard_normal((800, 16))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    problem = Problem.from_scores(np.zeros(800), kernel=(X @ X.T).astype(np.float32))
    objective = FacilityLocation(dense_kernel(Vectors.of(
        Problem.from_scores(np.zeros(800), vectors=lambda: iter([(0, X)])))))
    best_run(problem, 400, objective)
    assert objective.at_once > 1
    objective.reset()
    assert objective.at_once == 1


@settings(max_examples=60)
@given(cases(), st.integers(0, 5), st.data())
def test_stochastic_greedy_is_greedy_when_it_draws_everything_and_keeps_every_constraint(case, seed, data):
    budget, limit, in_tokens = some_budget(case.instance, data, in_tokens=False)
    problem = case.problem()
    exact = select(problem, budget, "facility-location")
    thorough = select(problem, budget, "facility-location", algorithm="stochastic", epsilon=1e-300, seed=seed)
    assert thorough.ids(problem) == exact.ids(problem)
    assert thorough.diagnostics["ratio_to_greedy"] == 1.0
    rough = select(problem, budget, "facility-location", algorithm="stochastic", epsilon=0.9, seed=seed)
    assert rough.diagnostics["approximate"]
    assert not rough.is_nested
    assert_kept(case.instance, rough, budget, limit, in_tokens)  # of near-duplicates it may leave fewer out
    assert rough.diagnostics["objective_of_greedy"] == exact.diagnostics["objective"]
    f, step = definition(case, "facility-location", 1, 1)
    assert rough.diagnostics["objective"] == f(rough.indices.tolist()) * step
    order = list(reversed(range(case.instance.n)))
    turned = case.permuted(order).problem(3)
    again = select(turned, budget, "facility-location", algorithm="stochastic", epsilon=0.9, seed=seed)
    assert again.ids(turned) == rough.ids(problem)


@settings(max_examples=60)
@given(cases(), st.integers(1, 5), st.data())
def test_partitioned_greedy_with_one_part_is_greedy_and_with_more_keeps_every_constraint(case, parts, data):
    budget, _, _ = some_budget(case.instance, data)
    problem = case.problem()
    exact = select(problem, budget, "facility-location")
    one = select(problem, budget, "facility-location", algorithm="partitioned", parts=1)
    if exact.diagnostics["rule"] == one.diagnostics["rule"] == "gain":
        assert one.ids(problem) == exact.ids(problem)
    got = select(problem, budget, "facility-location", algorithm="partitioned", parts=parts, seed=1)
    f, step = definition(case, "facility-location", 1, 1)
    assert got.diagnostics["objective"] == f(got.indices.tolist()) * step
    assert got.indices[:len(case.instance.include)].tolist() == case.instance.include
    turned = case.permuted(list(reversed(range(case.instance.n)))).problem(3)
    assert select(turned, budget, "facility-location", algorithm="partitioned", parts=parts,
                  seed=1).ids(turned) == got.ids(problem)


def test_the_approximations_come_near_to_greedy_and_depend_on_the_seed():
    rng = np.random.default_rng(0)
    kernel = rng.random((600, 600)) ** 4
    problem = Problem.from_scores(np.zeros(600), kernel=kernel)
    for algorithm in ("stochastic", "partitioned"):
        one, two = (select(problem, 30, "facility-location", algorithm=algorithm, seed=seed) for seed in (0, 1))
        assert 0.9 < one.diagnostics["ratio_to_greedy"] <= 1.001
        assert one.indices.tolist() != two.indices.tolist()


def test_stochastic_greedy_takes_the_only_useful_rows_however_rare_they_are():
    kernel = np.zeros((400, 400))
    kernel[5, 5] = kernel[77, 77] = 1.0
    got = select(Problem.from_scores(np.zeros(400), kernel=kernel), 3, "facility-location", algorithm="stochastic",
                 epsilon=0.9)
    assert sorted(got.indices[:2].tolist()) == [5, 77]
    assert got.diagnostics["filled_after_zero_gain"] == 1


@pytest.mark.parametrize(("selector", "without", "says"), [
    ("facility-location", ("kernel", "vectors"), "no vectors"),
    ("flcg", ("existing",), "already knows"),
    ("flcmi", ("existing",), "already knows"),
    ("graph-cut", ("kernel", "vectors"), "no vectors"),
    ("log-det", ("vectors",), "no vectors"),
    ("coverage", ("sets",), "features"),
])
def test_what_a_selector_needs_is_asked_for(selector, without, says):
    case = example()
    with pytest.raises(ConfigError, match=says):
        select(case.problem(without=without), 1, selector)


@pytest.mark.parametrize("selector", ["flmi", "flqmi", "flcmi"])
def test_targeted_variants_need_similarities(selector):
    problem = Problem.from_scores(np.zeros(2), kernel=np.eye(2), existing=lambda: iter([(0, np.zeros((1, 2)))]))
    with pytest.raises(ConfigError, match="needs similarities"):
        select(problem, 1, selector)


@pytest.mark.parametrize(("selector", "options", "says"), [
    ("flmi", {"eta": -1.0}, "flmi.eta cannot be -1.0"), ("flmi", {"eta": float("nan")}, "flmi.eta cannot be nan"),
    ("flcg", {"nu": 1e9}, "flcg.nu cannot be"), ("facility-location", {"algorithm": "greedi"}, "did you mean 'greedy'"),
    ("facility-location", {"kernel": "spare"}, "unknown value of facility-location.kernel"),
    ("flmi", {"negatives": "no"}, "unknown value"),
    ("facility-location", {"algorithm": "stochastic", "epsilon": 0.0}, "epsilon cannot be 0.0"),
    ("facility-location", {"algorithm": "partitioned", "parts": 0}, "parts cannot be 0"),
    ("graph-cut", {"lambda_": -0.1}, "lambda_ cannot be"), ("log-det", {"ridge": -1.0}, "ridge cannot be"),
    ("coverage", {"cap": 0}, "cap cannot be 0"), ("coverage", {"weights": "tf"}, "unknown value of coverage.weights"),
])
def test_options_out_of_range_are_refused(selector, options, says):
    with pytest.raises(ConfigError, match=says):
        select(example().problem(), 1, selector, **options)


def test_negative_entries_are_counted_or_refused():
    kernel = np.array([[1.0, -0.5], [-0.5, 1.0]])
    problem = Problem.from_scores(np.zeros(2), kernel=kernel)
    assert select(problem, 1, "facility-location").diagnostics["kernel"]["negative_entries"] == 2
    with pytest.raises(ConfigError, match=r"negative entry: -0\.5"):
        select(problem, 1, "facility-location", negatives="refuse")


@pytest.mark.parametrize("selector", ["facility-location", "graph-cut"])
def test_a_kernel_with_nan_is_refused_by_the_row(selector):
    kernel = np.array([[1.0, np.nan], [0.5, 1.0]])
    for form in (kernel, csc_array(kernel)):
        with pytest.raises(SiftuneError, match="row 'b' for represented row 0 is nan"):
            select(Problem.from_scores(np.zeros(2), ids=["a", "b"], kernel=form), 1, selector)


@pytest.mark.parametrize("selector", ["facility-location", "graph-cut", "log-det"])
def test_a_vector_with_nan_is_refused_by_the_row(selector):
    vectors = np.array([[1.0, 0.0], [np.nan, 1.0]], dtype=np.float32)
    with pytest.raises(SiftuneError, match="vector of row 'b' holds nan"):
        select(Problem.from_scores(np.zeros(2), ids=["a", "b"], vectors=lambda: iter([(0, vectors)])), 1, selector)


def example() -> Case:
    rng = np.random.default_rng(1)
    instance = Instance(S=rng.random((2, 4)).tolist(), ids=list("abcd"), targets=["x", "y"], subtasks=["all"] * 2,
                        tokens=[1, 2, 3, 4])
    return Case(instance, rng.random((4, 4)).tolist(), rng.random((1, 4)).tolist(), rng.random((4, 3)).tolist(),
                [[0], [1], [0, 1], []], 2)


def test_plain_greedy_itself_is_within_its_bound_of_the_best_subset():
    """The oracle against exhaustive search: 1 - 1/e (Nemhauser, Wolsey & Fisher 1978)."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        case = example()
        s = rng.integers(0, 9, (7, 4)).tolist()
        f = facility(s, [2**60] * 7, [0] * 7, [0] * 4)
        greedy = plain_greedy(case.instance, f, 2, False)
        assert greedy.value >= (1 - 1 / math.e) * max(f(list(pair)) for pair in combinations(range(4), 2))
