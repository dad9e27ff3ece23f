"""Problems from vectors select as problems from the similarities of these vectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siftune._common.errors import SiftuneError
from siftune.selectors import Problem, select

# Small whole numbers: every product is exact, so that nothing may differ by rounding.
WHOLE = st.integers(-3, 3)


@st.composite
def vectors(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Pool [N, D] and targets [M, D]."""
    n, m, d = draw(st.integers(1, 20)), draw(st.integers(1, 4)), draw(st.integers(1, 5))

    def matrix(rows: int) -> np.ndarray:
        return np.array(draw(st.lists(st.lists(WHOLE, min_size=d, max_size=d), min_size=rows, max_size=rows)), float)

    return matrix(n), matrix(m)


@given(vectors(), st.sampled_from(["round-robin", "top-k", "top-k-mean", "top-k-subtask"]), st.integers(1, 9))
def test_inner_products_select_as_the_matrix_of_them(given_vectors, selector, block_rows):
    X, Q = given_vectors
    budget = max(1, len(X) // 2)
    from_matrix = select(Problem.from_similarities(Q @ X.T), budget, selector)
    problem = Problem.from_vectors(X, Q, metric="inner", block_rows=block_rows)
    from_vectors = select(problem, budget, selector)
    assert from_vectors.indices.tolist() == from_matrix.indices.tolist()
    assert from_vectors.score.tolist() == from_matrix.score.tolist()
    assert from_vectors.nearest_target.tolist() == from_matrix.nearest_target.tolist()


@given(vectors(), st.integers(1, 9))
def test_cosines_are_those_of_the_definition_for_every_block_size(given_vectors, block_rows):
    X, Q = given_vectors
    problem = Problem.from_vectors(X, Q, block_rows=block_rows)
    S = np.concatenate([block for _, block in problem.stream()], axis=1)
    for i, q in enumerate(Q):
        for j, x in enumerate(X):
            lengths = float(np.sqrt(q @ q) * np.sqrt(x @ x))
            assert S[i, j] == pytest.approx(q @ x / lengths if lengths else 0.0, abs=1e-6)
    whole = np.concatenate([block for _, block in Problem.from_vectors(X, Q).stream()], axis=1)
    assert np.array_equal(S, whole)
    assert np.array_equal(S, np.concatenate([b for _, b in Problem.from_similarities(S).stream()], axis=1))


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_cosines_do_not_depend_on_the_length_of_vectors_however_extreme(scale):
    rng = np.random.default_rng(0)
    X, Q = rng.normal(size=(10, 4)), rng.normal(size=(2, 4))
    plain, scaled = (np.concatenate([b for _, b in Problem.from_vectors(x, Q).stream()], axis=1)
                     for x in (X, X * scale))
    np.testing.assert_allclose(plain, scaled, atol=1e-6)


def test_without_targets_rows_are_compared_with_each_other(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 8)).astype(np.float16)
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    first, second = (select(Problem.from_vectors(x, block_rows=rows), 5, "k-center").indices.tolist()
                     for x, rows in ((X, 4096), (mapped, 7)))
    assert first == second
    assert len(set(first)) == 5
    with pytest.raises(SiftuneError, match="needs similarities to targets"):
        select(Problem.from_vectors(X), 5, "round-robin")


def test_ids_tokens_and_existing_rows_go_where_they_belong():
    X = np.array([[1.0, 0], [0, 1], [1, 1]])
    problem = Problem.from_vectors(X, ids=["a", "b", "c"], tokens=np.array([3, 3, 9]), existing_vectors=X[:1],
                                   groups=["g", "g", "h"])
    assert set(select(problem, "6tok", "k-center").ids(problem)) == {"a", "b"}  # c does not fit
    assert problem.existing_best().tolist() == pytest.approx([1, 0, 0.5**0.5])
    assert problem.groups == ["g", "g", "h"]


@pytest.mark.parametrize(("pool", "more", "say"), [
    (np.zeros(3), {}, r"pool_vectors has the shape \[3\]"),
    (np.zeros((3, 0)), {}, r"pool_vectors has the shape \[3, 0\]"),
    (np.array([["a"]]), {}, "type <U1"),
    (np.zeros((3, 2)), {"target_vectors": np.zeros((1, 3))}, "vectors of 3 numbers, pool_vectors of 2"),
    (np.zeros((3, 2)), {"existing_vectors": np.zeros(2)}, r"existing_vectors has the shape \[2\]"),
    (np.zeros((3, 2)), {"metric": "cosin"}, "unknown metric 'cosin'"),
    (np.zeros((3, 2)), {"targets": ["x"]}, "no target_vectors"),
    (np.zeros((3, 2)), {"ids": ["x"] * 3}, "occurs more than once"),
])
def test_arrays_that_do_not_fit_are_refused(pool, more, say):
    with pytest.raises(SiftuneError, match=say):
        Problem.from_vectors(pool, **more)


def test_a_number_that_is_not_finite_is_named_by_its_row():
    X = np.ones((3, 2))
    X[1, 0] = np.nan
    with pytest.raises(SiftuneError, match="'culprit'"):
        select(Problem.from_vectors(X, np.ones((1, 2)), ids=["a", "culprit", "c"]), 1)


def test_ids_that_are_not_one_for_each_vector_are_refused():
    with pytest.raises(SiftuneError, match="1 ids were given for 3 vectors"):
        Problem.from_vectors(np.eye(3, dtype=np.float32), ids=["a"])
