"""Graph cut, log-determinant and coverage against their definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from siftune._common.errors import ConfigError
from siftune.selectors import Problem, select
from siftune.selectors.core.grid import Vectors
from siftune.selectors.log_det import LogDet
from tests.selectors.instances import Shelf, some_budget
from tests.selectors.submodular import Case, best_plain, cases, in_steps, plain_greedy, step_of


@settings(max_examples=200)
@given(cases(), st.booleans(), st.sampled_from([0.0, 0.25, 0.5, 2.0]), st.data())
def test_graph_cut_is_plain_greedy_over_its_definition(case, sparse, lambda_, data):
    """Whole-number gains: lambda is a multiple of 1/4, so four times f is counted in steps."""
    budget, limit, in_tokens = some_budget(case.instance, data)
    step = step_of(case.kernel)
    s, n = in_steps(case.kernel, step), case.instance.n

    def f(taken: list[int]) -> int:
        cut = sum(s[i][j] for i in range(n) for j in taken)
        among = sum(s[i][j] for i in taken for j in taken)
        return 4 * cut - int(4 * lambda_) * among

    expected, _ = best_plain(case.instance, f, limit, in_tokens, floor=-float("inf"))
    got = select(case.problem(sparse=sparse), budget, "graph-cut", lambda_=lambda_)
    assert got.indices.tolist() == expected.rows
    assert got.gain.tolist() == [gain * step / 4 for gain in expected.gains]
    assert got.diagnostics["ties_at_cut"] == expected.ties
    assert got.diagnostics["negative_gains"] == sum(gain < 0 for gain in expected.gains)
    assert got.diagnostics["filled_after_zero_gain"] == 0
    if got.diagnostics["rule"] == "gain":
        nearly = case.instance.ranked(expected.left)[:5]
        assert [left["id"] for left in got.diagnostics["nearly_selected"]] == [case.instance.ids[r] for r in nearly]


def test_graph_cut_needs_a_square_kernel():
    with pytest.raises(ConfigError, match="needs a kernel"):
        select(Problem.from_scores(np.zeros(3), kernel=np.ones((2, 3))), 1, "graph-cut")


def log_volume(X: np.ndarray, rows: list[int], ridge: float) -> float:
    """log det(I + X_A X_A^T / ridge), or log det(X_A X_A^T)."""
    gram = X[rows].astype(np.float64) @ X[rows].astype(np.float64).T
    sign, value = np.linalg.slogdet(np.eye(len(rows)) + gram / ridge if ridge else gram)
    return value if sign > 0 else -np.inf


@settings(max_examples=150)
@given(cases(), st.sampled_from([1e-2, 1.0]), st.data())
def test_log_det_takes_a_row_with_the_largest_log_determinant_each_time(case, ridge, data):
    budget, _, _ = some_budget(case.instance, data, in_tokens=False)
    problem = case.problem()
    X = np.array(case.vectors)
    X = X / max(1e-30, float(np.linalg.norm(X, axis=1).max()))
    problem = case.problem(without=("vectors",), vectors=lambda: iter([(0, X.astype(np.float32))]))
    X = Vectors.of(problem).X
    got = select(problem, budget, "log-det", ridge=ridge)
    shelf = Shelf(case.instance, len(got), False)
    shelf.taken = []
    filled = got.diagnostics["filled_after_zero_gain"]
    for at, row in enumerate(got.indices.tolist()):
        before = log_volume(X, shelf.taken, ridge)
        gains = {r: log_volume(X, [*shelf.taken, r], ridge) - before for r in range(case.instance.n)
                 if shelf.free(r) or r == row}
        assert gains[row] == pytest.approx(got.gain[at], rel=1e-6, abs=1e-7)
        if at >= len(case.instance.include):
            assert gains[row] >= max(gains.values()) - 1e-7
        if at >= len(got) - filled:
            assert got.gain[at] == 0
        shelf.taken.append(row)
    assert got.diagnostics["objective"] == pytest.approx(log_volume(X, got.indices.tolist(), ridge), abs=1e-6)


@settings(max_examples=100)
@given(cases(), st.sampled_from([0.0, 1e-3]), st.data())
def test_the_lazy_log_det_is_the_eager_one_to_the_last_bit(case, ridge, data):
    """All residuals brought up to date before every pick, in the same arithmetic."""
    budget, limit, _ = some_budget(case.instance, data, in_tokens=False)
    problem, instance = case.problem(), case.instance
    got = select(problem, budget, "log-det", ridge=ridge)
    eager, shelf, gains = LogDet(Vectors.of(problem), ridge), Shelf(instance, limit, False), []
    shelf.taken = []

    def take(row: int, gain: float) -> None:
        gains.append(float(gain) if gain > -np.inf else 0.0)
        shelf.taken.append(row)
        eager.take(row)

    for row in instance.include:
        take(row, eager.gains(np.arange(instance.n))[row])
    while not shelf.done:
        all_gains = eager.gains(np.arange(instance.n))
        worth = {r: all_gains[r] for r in range(instance.n) if shelf.free(r) and all_gains[r] > eager.floor}
        if not worth:
            break
        row = instance.ranked(worth)[0]
        take(row, all_gains[row])
    picked = len(shelf.taken)
    assert got.indices[:picked].tolist() == shelf.taken
    assert got.gain[:picked].tolist() == gains
    assert got.diagnostics["filled_after_zero_gain"] == len(got) - picked


def test_without_a_ridge_log_det_is_the_dpp_and_ends_when_the_space_is_spanned():
    X = np.array([[3, 0, 0], [0, 1, 0], [3, 2, 0], [0, 0, 1], [3, 0, 0]], dtype=np.float32)
    problem = Problem.from_scores(np.zeros(5), ids=list("abcde"), vectors=lambda: iter([(0, X)]))
    got = select(problem, 5, "log-det", ridge=0.0)
    assert got.ids(problem) == ["c", "a", "d", "b", "e"]
    assert got.diagnostics["filled_after_zero_gain"] == 2
    assert got.gain.sum() == pytest.approx(log_volume(X, [2, 0, 3], 0.0))
    best = max(log_volume(X, list(three), 0.0) for three in itertools.combinations(range(5), 3))
    assert got.gain.sum() == pytest.approx(best)
    with pytest.raises(ConfigError, match="token budget needs"):
        select(Problem.from_scores(np.zeros(5), tokens=np.ones(5, dtype=int), vectors=lambda: iter([(0, X)])),
               "3 tokens", "log-det", ridge=0.0)


def covered(case: Case, cap: int, weights: list[float]):
    def f(taken: list[int]) -> float:
        counts = [sum(feature in case.sets[row] for row in taken) for feature in range(case.features)]
        return sum(w * min(cap, count) for w, count in zip(weights, counts, strict=True))

    return f


def coverage_by_hand(case: Case, cap: int, weights: list[float], limit: int) -> tuple[list[int], list[float], int]:
    """Rows, gains and how many filled up: plain greedy in rounds, the cap one higher in each."""
    shelf = Shelf(case.instance, limit, False)
    shelf.taken, gains = [], []
    f = covered(case, cap, weights)
    for row in case.instance.include:
        gains.append(f([*shelf.taken, row]) - f(shelf.taken))
        shelf.taken.append(row)
    while not shelf.done:
        free = [row for row in range(case.instance.n) if shelf.free(row)]
        worth = {row: f([*shelf.taken, row]) - f(shelf.taken) for row in free}
        if max(worth.values()) > 0:
            row = case.instance.ranked(worth)[0]
            gains.append(worth[row])
            shelf.taken.append(row)
        elif cap > case.instance.n + 1:
            break
        else:
            cap += 1
            f = covered(case, cap, weights)
    filled = 0
    for row in case.instance.ranked(dict.fromkeys(range(case.instance.n), 0.0)):
        if not shelf.done and shelf.free(row):
            shelf.taken.append(row)
            gains.append(0.0)
            filled += 1
    return shelf.taken, gains, filled


@settings(max_examples=200)
@given(cases(), st.integers(1, 3), st.sampled_from(["uniform", "idf"]), st.data())
def test_coverage_is_plain_greedy_in_rounds(case, cap, weights, data):
    budget, limit, _ = some_budget(case.instance, data, in_tokens=False)
    having = [sum(feature in features for features in case.sets) for feature in range(case.features)]
    step = 2.0**-24
    w = [1.0 if weights == "uniform" else round(float(np.log(case.instance.n / max(1, h))) / step) * step
         for h in having]
    rows, gains, filled = coverage_by_hand(case, cap, w, limit)
    got = select(case.problem(), budget, "coverage", cap=cap, weights=weights)
    assert got.indices.tolist() == rows
    assert got.gain.tolist() == gains
    said = got.diagnostics
    assert said["filled_after_zero_gain"] == filled
    assert sum(round_["rows"] for round_ in said["rounds"]) == len(rows) - filled or filled
    assert said["features"] == sum(h > 0 for h in having)
    curve = [[at, len({f for row in rows[:at] for f in case.sets[row]})] for at in range(1, len(rows) - filled + 1)]
    assert said["coverage_curve"] == curve


@settings(max_examples=100)
@given(cases(), st.data())
def test_a_token_budget_covers_at_least_what_either_rule_alone_covers(case, data):
    budget, limit, in_tokens = some_budget(case.instance, data, in_tokens=True)
    got = select(case.problem(), budget, "coverage")
    f = covered(case, 1, [1.0] * case.features)
    runs = [plain_greedy(case.instance, f, limit, in_tokens, per_token) for per_token in (True, False)]
    assert f(got.indices.tolist()) >= max(f(run.rows[:len(run.rows) - run.filled]) for run in runs)


def test_new_rounds_of_coverage_begin_when_nothing_is_left_to_gain():
    sets = csr_array(np.array([[1, 1, 0], [1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1]]))
    problem = Problem.from_scores(np.zeros(5), ids=list("abcde"), sets=sets)
    got = select(problem, 5, "coverage")
    assert got.ids(problem) == ["e", "a", "c", "b", "d"]
    assert got.gain.tolist() == [3.0, 2.0, 1.0, 1.0, 0.0]
    assert got.diagnostics["rounds"] == [{"cap": 1, "rows": 1}, {"cap": 2, "rows": 2}, {"cap": 3, "rows": 1}]
    assert got.diagnostics["filled_after_zero_gain"] == 1
    assert got.diagnostics["coverage_curve"] == [[1, 3], [2, 3], [3, 3], [4, 3]]


def test_stored_zeros_are_not_features():
    sets = csr_array((np.array([0.0, 1.0]), np.array([0, 1]), np.array([0, 1, 2])), shape=(2, 2))
    problem = Problem.from_scores(np.zeros(2), ids=["a", "b"], sets=sets)
    assert select(problem, 1, "coverage").ids(problem) == ["b"]
