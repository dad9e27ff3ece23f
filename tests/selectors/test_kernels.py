"""Kernels and neighbours: exact sums, the same for every order, block and thread."""

from __future__ import annotations

from fractions import Fraction

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csc_array
from threadpoolctl import threadpool_limits

from siftune._common.errors import ConfigError
from siftune.selectors import Problem, select
from siftune.selectors.core import kernel_sources, kernels
from siftune.selectors.core.grid import Vectors, scale_of
from siftune.selectors.core.kernel_sources import pool_kernel
from siftune.selectors.core.kernels import on_grid
from siftune.selectors.core.neighbors import nearest_neighbors
from tests.selectors.submodular import in_steps, step_of


def problem_of(X: np.ndarray, ids=None, width: int = 4096, **more) -> Problem:
    X = np.asarray(X, dtype=np.float32)
    return Problem.from_scores(np.zeros(len(X)), ids=ids, **more,
                               vectors=lambda: ((s, X[s:s + width]) for s in range(0, len(X), width)))


@st.composite
def vectors(draw: st.DrawFn, most: int = 25) -> np.ndarray:
    """Rows of any scale, half of them normalised, some of them zero, some of them copies of others."""
    n, d = draw(st.integers(1, most)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    X = rng.standard_normal((n, d)) * 10.0 ** rng.integers(-6, 6)
    if draw(st.booleans()):
        X = np.sign(X) * (np.abs(X) > 0.5 * np.abs(X).max(initial=0))
    if draw(st.booleans()):
        X /= np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-30)
    if draw(st.booleans()):
        X = X[rng.integers(0, n, n)]
    return X.astype(np.float32)


@given(st.floats(1e-30, 1e30))
def test_the_scale_is_the_power_of_two_just_above(largest):
    scale = scale_of(largest)
    assert scale / 2 < largest <= scale
    assert scale == 2.0 ** round(np.log2(scale))


@settings(max_examples=150)
@given(vectors(), st.integers(1, 30))
def test_inner_products_are_exact_on_the_grid_of_the_vectors(X, width):
    got = Vectors.of(problem_of(X, width=width))
    assert np.abs(got.X - X).max() <= max(1e-45, float(np.linalg.norm(X, axis=1).max())) * 2.0**-24
    products = got.similarities(slice(None), slice(None))
    for i, x in enumerate(got.X.tolist()):
        for j, y in enumerate(got.X.tolist()):
            exact = sum((Fraction(a) * Fraction(b) for a, b in zip(x, y, strict=True)), Fraction(0))
            assert Fraction(float(products[i, j])) == exact


@settings(max_examples=100)
@given(vectors(), st.data())
def test_every_form_of_a_kernel_holds_the_same_entries_and_gains(X, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    n, problem = len(X), problem_of(X)
    forms = [pool_kernel(problem, form=form, neighbors=n) for form in ("dense", "blockwise", "sparse")]
    products = Vectors.of(problem).similarities(slice(None), slice(None))
    step = forms[0].step
    s = np.array(in_steps(products.tolist(), step)) * step
    cover = on_grid(rng.random(n) * s.max(initial=0.0), forms[0])
    columns = rng.integers(0, n, 5)
    for kernel in forms:
        for j in range(n):
            column = np.zeros(n)
            rows, entries = kernel.column(j)
            column[rows] = entries
            assert column.tolist() == s[:, j].tolist()
        expected = [sum(Fraction(max(0.0, s[i, j] - float(cover[i]))) for i in range(n)) for j in columns]
        assert [Fraction(g) for g in kernel.gains(columns, cover).tolist()] == expected
        assert kernel.column_sums().tolist() == s.sum(axis=0).tolist()
        assert kernel.diagonal().tolist() == s.diagonal().tolist()
        clip = on_grid(rng.random(n) * s.max(initial=0.0), kernel)
        gains = kernel.clipped(clip).gains(columns, cover)
        low, high = cover.tolist(), clip.tolist()
        assert gains.tolist() == [sum(max(0.0, min(s[i, j], high[i]) - low[i]) for i in range(n)) for j in columns]


@settings(max_examples=100)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1), st.sampled_from([np.float32, np.float64]))
def test_a_given_kernel_is_rounded_to_its_grid_and_keeps_its_direction(R, N, seed, dtype):
    rng = np.random.default_rng(seed)
    matrix = (rng.standard_normal((R, N)) * 10.0 ** rng.integers(-4, 5)).astype(dtype)
    step = step_of(matrix.tolist())
    s = np.array(in_steps(matrix.tolist(), step)) * step
    given_as = {"dense": matrix, "turned": np.asfortranarray(matrix), "sparse": csc_array(matrix)}
    for name, each in given_as.items():
        for form in ("auto", "blockwise"):
            kernel = pool_kernel(Problem.from_scores(np.zeros(N), kernel=each), form=form)
            assert kernel.step == step
            columns = np.zeros((R, N))
            for j in range(N):
                rows, entries = kernel.column(j)
                columns[rows, j] = entries
            assert columns.tolist() == s.tolist()
            if form == "auto":
                turned = kernel.transposed()
                assert turned.shape == (N, R)
                assert turned.column_sums().tolist() == s.sum(axis=1).tolist()
            elif name != "sparse":
                with pytest.raises(ConfigError, match="cannot be turned around"):
                    kernel.transposed()


@settings(max_examples=100)
@given(st.integers(1, 150), st.integers(0, 2**32 - 1), st.booleans(),
       st.sampled_from(["facility-location", "graph-cut"]))
def test_a_symmetric_float32_kernel_is_used_where_it_lies_with_the_result_of_a_copy(n, seed, tied, selector):
    rng = np.random.default_rng(seed)
    half = (rng.standard_normal((n, n)) * 10.0 ** rng.integers(-4, 5)).astype(np.float32)
    matrix = np.round(half + half.T) if tied else half + half.T
    lying, copied = (Problem.from_scores(np.zeros(n), kernel=m) for m in (matrix, matrix.astype(np.float64)))
    kernel, copy = pool_kernel(lying), pool_kernel(copied)
    assert kernel.borrowed
    assert not copy.borrowed
    assert kernel.transposed() is kernel
    assert kernel.facts == copy.facts
    assert kernel.column_sums().tolist() == copy.column_sums().tolist()
    one, two = (select(p, min(n, 10), selector) for p in (lying, copied))
    assert one.indices.tolist() == two.indices.tolist()
    assert one.gain.tolist() == two.gain.tolist()
    before = matrix.copy()
    kernel.clipped(np.full(n, kernel.step, dtype=np.float32))
    assert matrix.tolist() == before.tolist()
    if n > 1:
        matrix[n - 1, 0] += np.float32(1 + abs(matrix[n - 1, 0]))
        assert not pool_kernel(lying).borrowed


def test_a_kernel_on_disk_is_read_block_by_block(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "WIDTH", 7)
    monkeypatch.setattr(kernels, "HEIGHT", 5)
    rng = np.random.default_rng(0)
    matrix = rng.random((30, 40)).astype(np.float32)
    np.save(tmp_path / "kernel.npy", matrix)
    mapped = np.load(tmp_path / "kernel.npy", mmap_mode="r")
    on_disk = select(Problem.from_scores(np.zeros(40), kernel=mapped), 12, "facility-location")
    in_memory = select(Problem.from_scores(np.zeros(40), kernel=matrix), 12, "facility-location")
    assert on_disk.diagnostics["kernel"]["form"] == "blockwise"
    assert on_disk.indices.tolist() == in_memory.indices.tolist()
    assert on_disk.gain.tolist() == in_memory.gain.tolist()


def test_threads_of_blas_and_faiss_do_not_matter():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((900, 70)).astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    got = []
    for threads in (1, 2):
        faiss.omp_set_num_threads(threads)
        with threadpool_limits(threads):
            dense = pool_kernel(problem_of(X), form="dense").data
            found = nearest_neighbors(Vectors.of(problem_of(X)), np.arange(900), 8)
        got.append((dense.tobytes(), found.rows.tobytes(), found.similarities.tobytes()))
    assert got[0] == got[1]


def neighbours_by_hand(products: np.ndarray, rank: np.ndarray, k: int) -> list[list[int]]:
    """Each row itself, then the others by similarity, ties by rank."""
    n = len(products)
    return [[i, *sorted((j for j in range(n) if j != i), key=lambda j, i=i: (-products[i, j], rank[j]))[:k - 1]]
            for i in range(n)]


@settings(max_examples=150)
@given(vectors(most=60), st.integers(1, 12), st.randoms(use_true_random=False))
def test_the_neighbours_are_those_of_a_full_sort_with_ties_by_id(X, k, random):
    n = len(X)
    rank = list(range(n))
    random.shuffle(rank)
    pool = Vectors.of(problem_of(X))
    found = nearest_neighbors(pool, np.array(rank), k)
    products = pool.similarities(slice(None), slice(None))
    expected = neighbours_by_hand(products, np.array(rank), k)
    assert found.rows.tolist() == expected
    assert found.similarities.tolist() == [products[i, row].tolist() for i, row in enumerate(expected)]


def test_ties_beyond_what_faiss_nominates_are_settled_by_comparing_with_all():
    """300 copies of one row, and 8 neighbours: faiss nominates 24 of them, by position."""
    rng = np.random.default_rng(0)
    X = np.concatenate([np.tile(rng.standard_normal((1, 20)), (300, 1)), rng.standard_normal((100, 20))])
    rank = rng.permutation(400)
    pool = Vectors.of(problem_of(X))
    found = nearest_neighbors(pool, rank, 8)
    expected = neighbours_by_hand(pool.similarities(slice(None), slice(None)), rank, 8)
    assert found.rows.tolist() == expected
    assert found.facts["compared_with_all"] >= 300


@pytest.mark.parametrize("index", ["flat", "ivf", "hnsw"])
def test_every_index_gives_the_same_neighbours_for_every_order_and_finds_most_of_the_true_ones(index):
    rng = np.random.default_rng(1)
    X = rng.standard_normal((40, 16))[rng.integers(0, 40, 1200)] + 0.3 * rng.standard_normal((1200, 16))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    ids = [f"{i:04d}" for i in range(1200)]
    order = rng.permutation(1200)
    straight = nearest_neighbors(Vectors.of(problem_of(X)), np.arange(1200), 6, index)
    shuffled = nearest_neighbors(Vectors.of(problem_of(X[order])), order, 6, index)
    assert order[shuffled.rows].tolist() == straight.rows[order].tolist()
    assert straight.rows[:, 0].tolist() == list(range(1200))
    pool = Vectors.of(problem_of(X))
    exact = neighbours_by_hand(pool.similarities(slice(None), slice(None)), np.arange(1200), 6)
    recall = np.mean([len(set(a) & set(b)) / 6 for a, b in zip(straight.rows.tolist(), exact, strict=True)])
    assert recall == 1 if index == "flat" else recall > 0.9
    got = select(problem_of(X, ids), 50, "facility-location", kernel="sparse", neighbors=6, index=index)
    said = got.diagnostics["kernel"]
    assert said["approximate"] == (index != "flat")
    assert (said["form"], said["neighbors"], said["index"]) == ("sparse", 6, index)


def test_the_form_is_chosen_by_size_and_said(monkeypatch):
    X = np.eye(6)
    assert select(problem_of(X), 2, "facility-location").diagnostics["kernel"]["form"] == "dense"
    monkeypatch.setattr(kernel_sources, "LARGEST_DENSE", 5)
    assert select(problem_of(X), 2, "facility-location").diagnostics["kernel"]["form"] == "sparse"


@pytest.mark.parametrize(("options", "says"), [({"neighbors": 0}, "neighbors cannot be 0"),
                                               ({"index": "lsh"}, "unknown value of facility-location.index")])
def test_options_of_the_neighbours_are_checked(options, says):
    with pytest.raises(ConfigError, match=says):
        select(problem_of(np.eye(3)), 1, "facility-location", kernel="sparse", **options)
