from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csc_array, csr_array

from siftune._common.errors import ConfigError, SiftuneError
from siftune.selectors import SELECTORS, Problem, methods, select
from tests.selectors.instances import instances

S = np.array([[0.9, 0.1, 0.8], [0.2, 0.7, 0.95]])


@given(instances(), st.integers(1, 45))
def test_one_pass_finds_best_nearest_and_mean_of_every_row_for_every_block_size(instance, block_rows):
    summary = instance.problem(block_rows).summary()
    for row in range(instance.n):
        column = [line[row] for line in instance.S]
        assert summary.best[row] == max(column)
        assert summary.nearest[row] == instance.nearest(row)
        assert summary.mean[row] == sum(column) / instance.m


def test_the_summary_is_computed_once():
    passes = []

    def blocks():
        passes.append(1)
        yield 0, S

    problem = Problem.from_blocks(blocks, ids=list("abc"), targets=["x", "y"])
    assert problem.summary() is problem.summary()
    assert len(passes) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("selector", ["round-robin", "top-k", "top-k-mean", "top-k-subtask", "round-robin-subtask"])
def test_a_similarity_that_is_not_finite_is_refused_by_the_row_it_belongs_to(bad, selector):
    broken = S.astype(np.float32)
    broken[1, 2] = bad
    problem = Problem.from_similarities(broken, ids=["a", "b", "culprit"], targets=["x", "y"], block_rows=2)
    with pytest.raises(SiftuneError, match="'y' of row 'culprit' is"):
        select(problem, 1, selector)


def test_a_score_that_is_not_finite_is_refused_by_the_row_it_belongs_to():
    with pytest.raises(SiftuneError, match="row 'b' is nan"):
        Problem.from_scores(np.array([1.0, np.nan]), ids=["a", "b"])


@pytest.mark.parametrize(("change", "says"), [
    (dict(ids=["a", "b"]), "does not fit"),
    (dict(ids=["a", "b", "a"]), "row id 'a' occurs more than once"),
    (dict(targets=["x", "x"]), "target id 'x' occurs more than once"),
    (dict(targets=["x"]), "does not fit"),
    (dict(subtasks=["one"]), "subtasks has 1 entries for 2 targets"),
    (dict(tokens=np.array([1, 2])), "tokens has 2 entries for 3 rows"),
    (dict(tokens=np.array([1.5, 2, 3])), "whole number"),
    (dict(tokens=np.array([1, -2, 3])), "negative"),
    (dict(exclude=np.array([True])), "exclude has 1 entries"),
    (dict(include=np.array([3])), "outside the pool"),
    (dict(duplicate_groups=[[0, 7]]), "outside the pool"),
    (dict(groups=["g"]), "groups has 1 entries"),
    (dict(subtask_scores=np.zeros((2, 3))), "subtask score block"),
])
def test_arrays_that_do_not_belong_together_are_refused(change, says):
    with pytest.raises(SiftuneError, match=says):
        select(Problem.from_similarities(S, **change), 1, "top-k-subtask")


@pytest.mark.parametrize(("blocks", "says"), [
    ([(0, S[:, :2])], "end at row 2 of 3"),
    ([(0, S[:, :2]), (1, S[:, 1:])], "does not fit"),
    ([(0, S[:, :2]), (2, S)], "does not fit"),
    ([(0, S[0])], "does not fit"),
])
def test_blocks_must_cover_the_pool_in_order(blocks, says):
    problem = Problem.from_blocks(lambda: iter(blocks), ids=list("abc"), targets=["x", "y"])
    with pytest.raises(SiftuneError, match=says):
        problem.summary()


def test_rows_are_excluded_and_included_by_id():
    problem = Problem.from_similarities(S, ids=list("abc")).constrained(must_exclude=["a"], must_include=["b"])
    got = select(problem, 2)
    assert got.ids(problem) == ["b", "c"]
    assert got.diagnostics["included"] == got.diagnostics["excluded"] == 1


@pytest.mark.parametrize("flag", ["must_exclude", "must_include"])
def test_an_unknown_id_is_named_with_the_nearest_known_one(flag):
    problem = Problem.from_similarities(S, ids=["row-1", "row-2", "other"])
    with pytest.raises(ConfigError, match="'row-11'") as caught:
        problem.constrained(**{flag: ["row-11"]})
    assert caught.value.where == "--" + flag.replace("_", "-")
    assert "row-1" in (caught.value.hint or "")
    with pytest.raises(ConfigError, match="'zzz'"):
        problem.constrained(**{flag: ["zzz"]})


def test_a_row_cannot_be_included_and_excluded():
    with pytest.raises(ConfigError, match="'a' must be included and excluded"):
        Problem.from_similarities(S, ids=list("abc")).constrained(must_exclude=["a"], must_include=["a"])


def test_must_includes_above_the_budget_are_refused():
    problem = Problem.from_similarities(S, ids=list("abc"), tokens=np.array([5, 5, 5]))
    with pytest.raises(ConfigError, match="exceed the budget"):
        select(problem.constrained(must_include=["a", "b"]), 1)
    with pytest.raises(ConfigError, match="exceed the budget"):
        select(problem.constrained(must_include=["a", "b"]), "9 tokens")


def test_a_token_budget_below_the_shortest_row_is_refused_with_the_least_that_works():
    problem = Problem.from_similarities(S, tokens=np.array([9, 5, 7]), exclude=np.array([False, True, False]))
    with pytest.raises(ConfigError, match="too small") as caught:
        select(problem, "6 tokens")
    assert '"7 tokens"' in (caught.value.hint or "")


def test_the_share_is_of_the_rows_that_are_not_excluded():
    problem = Problem.from_scores(np.arange(200.0), exclude=np.arange(200) < 100)
    assert len(select(problem, "5%", "top-k")) == 5


@pytest.mark.parametrize("selector", ["round-robin", "round-robin-subtask", "top-k-mean", "top-k-subtask"])
def test_scores_alone_are_refused_where_similarities_are_needed(selector):
    with pytest.raises(ConfigError, match="needs similarities") as caught:
        select(Problem.from_scores(np.arange(3.0)), 1, selector)
    assert "top-k" in (caught.value.hint or "")


def test_scores_alone_are_ranked_by_top_k_and_ties_go_to_the_smaller_id():
    problem = Problem.from_scores(np.array([1.0, 2.0, 2.0, 2.0]), ids=["a", "d", "c", "b"])
    got = select(problem, 2, "top-k")
    assert got.ids(problem) == ["b", "c"]
    assert got.nearest_target.tolist() == [-1, -1]
    assert got.diagnostics["ties_at_cut"] == 1


def test_nothing_to_rank_by_is_said():
    with pytest.raises(ConfigError, match="neither similarities nor scores"):
        select(Problem(ids=["a"]), 1, "top-k")


def test_names_and_options_that_are_mistyped_get_a_suggestion():
    problem = Problem.from_similarities(S)
    for call, near in [
        (lambda: select(problem, 1, "round-robbin"), "round-robin"),
        (lambda: select(problem, 1, "round-robin", on_take="forfeit"), "on_taken"),
        (lambda: select(problem, 1, "round-robin", on_taken="forfiet"), "forfeit"),
    ]:
        with pytest.raises(ConfigError) as caught:
            call()
        assert f"{near!r}?" in (caught.value.hint or "")


def test_a_preset_option_is_not_open_to_the_user():
    with pytest.raises(ConfigError, match="top-k-mean has no setting 'aggregate'"):
        select(Problem.from_similarities(S), 1, "top-k-mean", aggregate="max")


def test_every_selector_is_described_under_its_own_name():
    assert [info.name for info in methods()] == SELECTORS.names()
    assert all(info.summary.endswith(".") and info.complexity and info.suits for info in methods())


V = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], dtype=np.float32)
KERNEL = np.array([[0.5, 0.1, 0.2], [0.0, 0.4, 0.3]])


def carrying(**more) -> Problem:
    return Problem(ids=["a", "b", "culprit"], **more)


def changed(matrix, line, column, value):
    matrix = matrix.copy()
    matrix[line, column] = value
    return matrix


@pytest.mark.parametrize(("blocks", "says"), [
    ([(0, V[:2])], "end at row 2 of 3"),
    ([(0, V[:2]), (1, V[1:])], "does not fit"),
    ([(0, V[:2]), (2, V[2:, :1])], "does not fit"),
    ([(0, V[:, 0])], "does not fit"),
    ([(0, V), (3, V[:1])], "does not fit"),
    ([(0, V[:1]), (1, changed(V[1:], 1, 0, np.nan))], "vector of row 'culprit' holds nan"),
    ([(0, changed(V, 2, 1, -np.inf))], "vector of row 'culprit' holds -inf"),
])
def test_vectors_must_cover_the_pool_in_order_and_be_finite(blocks, says):
    with pytest.raises(SiftuneError, match=says):
        list(carrying(vectors=lambda: iter(blocks)).vector_stream())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("form", [np.asarray, csc_array])
def test_a_kernel_entry_that_is_not_finite_is_refused_by_the_row_it_belongs_to(bad, form):
    problem = carrying(kernel=form(changed(KERNEL, 1, 2, bad)))
    with pytest.raises(SiftuneError, match=f"row 'culprit' for represented row 1 is {bad}"):
        problem.required_kernel()


@pytest.mark.parametrize(("more", "says"), [
    (dict(kernel=KERNEL[:, :2]), "2 columns for 3 rows"),
    (dict(kernel=KERNEL[:0]), "no row to be represented"),
    (dict(kernel=KERNEL[0]), "must be a matrix"),
    (dict(kernel=KERNEL.astype(str)), "must be a matrix of numbers"),
    (dict(kernel=csr_array(KERNEL)), "CSC form"),
    (dict(sets=csr_array(np.ones((2, 4)))), "2 lines for 3 rows"),
    (dict(sets=np.ones((3, 4))), "CSR form"),
])
def test_kernels_and_sets_of_another_shape_are_refused(more, says):
    with pytest.raises(SiftuneError, match=says):
        carrying(**more)


def test_feature_sets_hold_zeros_and_ones_and_no_feature_twice():
    with pytest.raises(SiftuneError, match=r"row 'culprit' holds 2\.0"):
        carrying(sets=csr_array(changed(np.ones((3, 4)), 2, 0, 2.0))).required_sets()
    twice = csr_array((np.ones(2), np.array([1, 1]), np.array([0, 2, 2, 2])), shape=(3, 4))
    with pytest.raises(SiftuneError, match="twice"):
        carrying(sets=twice).required_sets()


def test_the_largest_similarity_to_existing_rows_is_streamed():
    blocks = [(0, np.array([[0.1, 0.9]])), (2, np.array([[-0.5]]))]
    assert carrying(existing=lambda: iter(blocks)).existing_best().tolist() == [0.1, 0.9, -0.5]
    broken = [(0, np.array([[0.1, 0.9, np.nan]]))]
    with pytest.raises(SiftuneError, match="existing row 0' of row 'culprit' is nan"):
        carrying(existing=lambda: iter(broken)).existing_best()
    with pytest.raises(SiftuneError, match="are empty"):
        carrying(existing=lambda: iter([])).existing_best()


@pytest.mark.parametrize("ask", ["required_vectors", "required_kernel", "required_sets", "existing_best"])
def test_what_a_problem_does_not_carry_is_said_with_what_to_pass(ask):
    with pytest.raises(ConfigError) as caught:
        getattr(carrying(), ask)()
    assert "pass " in (caught.value.hint or "")
