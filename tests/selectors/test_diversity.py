"""K-center, herding, clusters and DEITA against their definitions as plain loops."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siftune._common.errors import ConfigError, SiftuneError
from siftune.selectors import Problem, select
from siftune.selectors.core.vectors import on_grid
from siftune.selectors.deita import deita
from siftune.selectors.herding import herding
from siftune.selectors.k_center import k_center
from siftune.selectors.k_means import largest_remainders
from tests.selectors.instances import Instance, Shelf, instances, some_budget

ALL = ["k-center", "herding", "k-means-balanced", "deita"]


@dataclass(frozen=True)
class Space:
    """An instance whose rows have vectors, some equal, one of zeros, not normalised."""

    instance: Instance
    V: np.ndarray

    @classmethod
    def of(cls, instance: Instance, seed: int, dim: int) -> Space:
        rng = np.random.default_rng(seed)
        V = rng.standard_normal((instance.n, dim)).astype(np.float32)
        if seed % 2:
            V = np.round(V)
        if seed % 3 == 0:
            V = V[rng.integers(0, len(V), len(V))]
        if seed % 5 == 0:
            V[0] = 0
        return cls(instance, V)

    def problem(self, block_rows: int = 1000, **more: object) -> Problem:
        V = self.V
        return self.instance.problem(
            block_rows, vectors=lambda: ((s, V[s:s + block_rows]) for s in range(0, len(V), block_rows)), **more)

    def permuted(self, order: list[int]) -> Space:
        return Space(self.instance.permuted(order), self.V[order])

    def dot(self, i: int, j: int) -> float:
        """To float32, as the selectors compare."""
        return _product(self.grid[i], self.grid[j])

    def squared(self, i: int, j: int) -> float:
        return max(0.0, (self.dot(i, i) + self.dot(j, j)) - 2 * self.dot(i, j))

    def cosine(self, i: int, j: int) -> float:
        return _product(self.units[i], self.units[j])

    @cached_property
    def grid(self) -> list[list[float]]:
        return [_grid(v) for v in self.V.tolist()]

    @cached_property
    def units(self) -> list[list[float]]:
        lengths = [math.sqrt(sum(x * x for x in v)) or 1.0 for v in self.grid]
        return [_grid([_single(x / length) for x in v]) for v, length in zip(self.grid, lengths, strict=True)]


def _single(value: float) -> float:
    return float(np.float32(value))


def _grid(vector: Sequence[float]) -> list[float]:
    """A vector rounded to 2^-26 of the power of two near its length, which is that of 1 for vectors of length 1."""
    length, scale = math.sqrt(sum(v ** 2 for v in vector)), 1.0
    while length > 1.1 * scale:
        scale *= 2
    while 0 < length <= 1.1 * scale / 2:
        scale /= 2
    return [round(v / (scale / 2**26)) * (scale / 2**26) for v in vector]


def _product(a: Sequence[float], b: Sequence[float]) -> float:
    """Of vectors on the grid, for which the sum is exact."""
    return _single(sum(x * y for x, y in zip(a, b, strict=True)))


SPACES = st.builds(Space.of, instances(constrained=True), st.integers(0, 2**31), st.integers(1, 4))


@settings(max_examples=150)
@given(SPACES, st.integers(1, 45), st.sampled_from(["pool", "targets"]), st.booleans(), st.data())
def test_k_center_takes_the_farthest_row_each_time(space, block_rows, start, few, data):
    instance = space.instance
    budget, limit, in_tokens = some_budget(instance, data)
    shelf, closed = Shelf(instance, limit, in_tokens), set()
    cover = dict.fromkeys(range(instance.n), math.inf)
    if start == "targets":
        cover = {row: max(0.0, 2 - 2 * max(line[row] for line in instance.S)) for row in range(instance.n)}
    gains = [0.0] * len(instance.include)

    def distance(row: int) -> float:
        return min([cover[row], *(space.squared(row, centre) for centre in shelf.taken)])

    while not shelf.done:
        free = {row: distance(row) for row in range(instance.n) if shelf.free(row) and row not in closed}
        row = instance.ranked(free)[0]
        if shelf.fits(row):
            gains.append(math.sqrt(free[row]) if math.isfinite(free[row]) else 0.0)
            shelf.taken.append(row)
        else:
            closed.add(row)
    with pytest.MonkeyPatch.context() as patch:
        if few:  # hold three rows between passes
            patch.setattr("siftune.selectors.k_center._FEWEST", 3)
            patch.setattr("siftune.selectors.k_center._BYTES", 0)
        got = k_center(space.problem(block_rows), budget, start=start)
    assert got.indices.tolist() == shelf.taken
    assert got.gain.tolist() == gains
    usable = [row for row in range(instance.n) if row not in instance.exclude]
    assert got.diagnostics["radius"] == pytest.approx(math.sqrt(max(distance(row) for row in usable)), abs=1e-8)


def test_k_center_is_within_twice_the_best_radius():
    """Against every choice of three centres among twelve rows."""
    from itertools import combinations

    for seed in range(20):
        V = np.random.default_rng(seed).standard_normal((12, 2)).astype(np.float32)
        problem = Problem(ids=[f"{i:02d}" for i in range(12)], vectors=lambda V=V: iter([(0, V)]))
        distance = np.linalg.norm(V[:, None] - V[None], axis=2)
        best = min(distance[:, list(three)].min(axis=1).max() for three in combinations(range(12), 3))
        assert best - 1e-6 <= select(problem, 3, "k-center").diagnostics["radius"] <= 2 * best + 1e-6


@settings(max_examples=150)
@given(SPACES, st.integers(1, 45), st.sampled_from(["pool", "targets"]), st.data())
def test_herding_takes_the_row_most_like_the_mean_and_least_like_the_rest(space, block_rows, towards, data):
    instance = space.instance
    budget, limit, in_tokens = some_budget(instance, data)
    usable = [row for row in range(instance.n) if row not in instance.exclude]
    mean = [0.0] * space.V.shape[1]
    for row in sorted(usable, key=instance.ids.__getitem__):
        mean = [m + float(v) for m, v in zip(mean, space.grid[row], strict=True)]
    mean = [m / len(usable) for m in mean]
    pull = {row: _product(space.grid[row], _grid(mean)) for row in usable}
    if towards == "targets":
        pull = {row: instance.mean(row) for row in usable}
    shelf, closed, gains = Shelf(instance, limit, in_tokens), set(), []

    def objective(row: int, taken: list[int]) -> float:
        return pull[row] - sum(space.dot(row, other) for other in taken) / (len(taken) + 1)

    for at, row in enumerate(instance.include):
        gains.append(objective(row, instance.include[:at]))
    while not shelf.done:
        free = {row: objective(row, shelf.taken) for row in usable if shelf.free(row) and row not in closed}
        row = instance.ranked(free)[0]
        if shelf.fits(row):
            gains.append(free[row])
            shelf.taken.append(row)
        else:
            closed.add(row)
    got = herding(space.problem(block_rows), budget, towards=towards)
    assert got.indices.tolist() == shelf.taken
    assert got.gain.tolist() == pytest.approx(gains, abs=1e-12)
    if towards == "pool":
        off = np.linalg.norm(space.V[shelf.taken].astype(np.float64).mean(axis=0) - mean)
        assert got.diagnostics["distance_to_mean"] == pytest.approx(off, abs=1e-6)


def test_herding_comes_nearer_to_the_mean_than_random_rows():
    V = np.random.default_rng(0).standard_normal((3000, 16)).astype(np.float32) + 0.3
    problem = Problem(ids=[f"{i:04d}" for i in range(3000)], vectors=lambda: iter([(0, V)]))
    random = select(problem, 100, "random").indices
    off = np.linalg.norm(V[random].mean(axis=0) - V.mean(axis=0))
    assert select(problem, 100, "herding").diagnostics["distance_to_mean"] < off / 5


@settings(max_examples=150)
@given(SPACES, st.integers(1, 45), st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.5]), st.booleans(), st.data())
def test_deita_passes_over_rows_near_a_better_one(space, block_rows, threshold, few, data):
    instance = space.instance
    budget, limit, in_tokens = some_budget(instance, data)
    score = {row: max(line[row] for line in instance.S) for row in range(instance.n)}
    shelf, closed = Shelf(instance, limit, in_tokens), set()
    gains = []
    for at, row in enumerate(instance.include):
        gains.append(1 - max(space.cosine(row, other) for other in instance.include[:at]) if at else 2.0)
    walks = []
    for step in [*([threshold / 2**k for k in range(4)] if threshold else [0.0]), None]:
        walks.append({"threshold": step, "rows": -len(shelf.taken)})
        for row in instance.ranked(score):
            nearest = max((space.cosine(row, other) for other in shelf.taken), default=-1.0)
            if shelf.done or not shelf.free(row) or row in closed:
                continue
            if step is not None and shelf.taken and 1 - nearest <= step:
                continue
            if shelf.fits(row):
                gains.append(1 - nearest)
                shelf.taken.append(row)
            else:
                closed.add(row)
        walks[-1]["rows"] += len(shelf.taken)
        if shelf.done:
            break
    with pytest.MonkeyPatch.context() as patch:
        if few:
            patch.setattr("siftune.selectors.deita._BATCH", 2)
            patch.setattr("siftune.selectors.deita._BYTES", 0)
        got = deita(space.problem(block_rows), budget, threshold=threshold)
    assert got.indices.tolist() == shelf.taken
    assert got.gain.tolist() == gains
    assert got.diagnostics["walks"] == walks


@settings(max_examples=200)
@given(st.integers(0, 1000), st.lists(st.integers(0, 50), min_size=1, max_size=20).filter(any))
def test_largest_remainders_add_up_and_are_off_by_less_than_one(total, sizes):
    got = largest_remainders(total, np.array(sizes)).tolist()
    exact = [total * size / sum(sizes) for size in sizes]
    assert sum(got) == total
    assert all(abs(g - e) < 1 for g, e in zip(got, exact, strict=True))
    for g, e in zip(got, exact, strict=True):
        for h, f in zip(got, exact, strict=True):
            if g > e + 1e-9 and h < f - 1e-9:  # one rounded up, another down
                assert e - math.floor(e) >= f - math.floor(f) - 1e-9


def blobs(seed: int, sizes: list[int], **more: object) -> tuple[Problem, np.ndarray]:
    rng = np.random.default_rng(seed)
    blob = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centres = np.eye(len(sizes), 8) * 10
    V = (centres[blob] + rng.standard_normal((len(blob), 8)) * 0.1).astype(np.float32)
    ids = [f"r{i}" for i in rng.permutation(len(blob))]
    return Problem(ids=ids, vectors=lambda: ((s, V[s:s + 100]) for s in range(0, len(V), 100)), **more), blob


@settings(max_examples=100)
@given(st.integers(0, 1000), st.lists(st.integers(5, 60), min_size=2, max_size=6), st.data())
def test_clusters_get_exact_shares_of_the_budget_and_give_their_best_rows(seed, sizes, data):
    rng = np.random.default_rng(seed)
    scores = np.round(rng.standard_normal(sum(sizes)), 1)
    problem, blob = blobs(seed, sizes, scores=scores)
    budget = data.draw(st.integers(1, sum(sizes)))
    with pytest.MonkeyPatch.context() as patch:  # which centres k-means finds is not what is tested
        centres = (np.eye(len(sizes), 8) * 10).astype(np.float32)
        patch.setattr("siftune.selectors.k_means._centres", lambda *arguments: centres)
        got = select(problem, budget, "k-means-balanced", clusters=len(sizes))
    counts = np.bincount(blob[got.indices], minlength=len(sizes))
    assert counts.tolist() == largest_remainders(budget, np.array(sizes)).tolist()
    assert got.diagnostics["beyond_share"] == 0
    for c, count in enumerate(counts.tolist()):
        members = sorted(np.flatnonzero(blob == c), key=lambda row: (-scores[row], problem.ids[row]))
        assert [row for row in got.indices.tolist() if blob[row] == c] == members[:count]


def test_separate_clusters_are_found_and_depend_on_the_seed_alone():
    problem, blob = blobs(0, [200, 100])
    got = select(problem, 30, "k-means-balanced", clusters=2)
    assert np.bincount(blob[got.indices]).tolist() == [20, 10]
    many = [select(problem, 30, "k-means-balanced", clusters=9, seed=seed).indices.tolist() for seed in (1, 1, 2)]
    assert many[0] == many[1] != many[2]


def test_clusters_that_run_dry_are_stood_in_for_and_that_is_said():
    problem, blob = blobs(1, [30, 30])
    problem = problem.constrained(duplicate_groups=[np.flatnonzero(blob == 0).tolist()])
    got = select(problem, 20, "k-means-balanced", clusters=2)
    assert np.bincount(blob[got.indices]).tolist() == [1, 19]
    assert got.diagnostics["beyond_share"] == 9


def test_without_scores_the_rows_nearest_to_the_centre_come_first():
    problem, _ = blobs(2, [40])
    got = select(problem, 40, "k-means-balanced", clusters=1)
    V = np.concatenate([block for _, block in problem.vector_stream()])
    distance = np.linalg.norm(V - V.mean(axis=0), axis=1)
    assert (np.diff(distance[got.indices]) > -1e-4).all()
    np.testing.assert_allclose(-got.score, distance[got.indices] ** 2, atol=1e-3)


@settings(max_examples=100)
@given(SPACES, st.sampled_from(ALL), st.integers(1, 45), st.randoms(use_true_random=False), st.data())
def test_neither_the_order_of_the_pool_nor_the_blocks_change_anything(space, selector, block_rows, random, data):
    budget, _, _ = some_budget(space.instance, data)
    order = list(range(space.instance.n))
    random.shuffle(order)
    problems = [space.problem(), space.problem(block_rows), space.permuted(order).problem(block_rows)]
    one, *others = (select(problem, budget, selector) for problem in problems)
    for other, problem in zip(others, problems[1:], strict=True):
        assert other.ids(problem) == one.ids(problems[0])
        assert other.gain.tolist() == one.gain.tolist()
        assert {**other.diagnostics, "passes": 0} == {**one.diagnostics, "passes": 0}


@pytest.mark.parametrize("selector", ALL)
def test_vectors_that_are_missing_or_not_finite_are_told(selector):
    with pytest.raises(ConfigError, match="no vectors"):
        select(Problem.from_scores(np.arange(3.0)), 1, selector)
    V = np.ones((3, 2), dtype=np.float32)
    V[1, 1] = np.nan
    broken = Problem.from_scores(np.arange(3.0), ids=["a", "culprit", "c"], vectors=lambda: iter([(0, V)]))
    with pytest.raises(SiftuneError, match="culprit"):
        select(broken, 1, selector)


@pytest.mark.parametrize(("selector", "option"), [
    ("k-center", dict(start="middle")), ("herding", dict(towards="elsewhere")), ("deita", dict(threshold=-0.1)),
    ("deita", dict(threshold=2.0)), ("k-means-balanced", dict(clusters=0)),
])
def test_options_out_of_range_are_refused_by_name(selector, option):
    problem, _ = blobs(0, [5, 5], scores=np.arange(10.0))
    with pytest.raises(ConfigError, match=next(iter(option))):
        select(problem, 1, selector, **option)


def on_the_grid(vectors: np.ndarray) -> bool:
    return all(vector == _grid(vector) for vector in vectors.tolist())


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.sampled_from([1e-30, 1e-3, 1.0, 1e20]), st.booleans())
def test_products_of_vectors_on_the_grid_are_exact(seed, dim, size, equal_entries):
    """In one matrix product, in others, and term by term in any order: the very same numbers."""
    rng = np.random.default_rng(seed)
    V = (rng.standard_normal((7, dim)) * size).astype(np.float32)
    if equal_entries:  # where the length is used to the full
        V[:] = (rng.random((7, 1)) * size).astype(np.float32)
    V[0] = 0
    G = on_grid(V)
    assert on_the_grid(G)
    assert np.array_equal(on_grid(G), G)
    assert np.abs(G.astype(np.float64) - V).max() <= np.linalg.norm(V.astype(np.float64), axis=1).max() / 2**26
    wide = G.astype(np.float64)
    exact = [[float(sum(Fraction(float(x)) * Fraction(float(y)) for x, y in zip(a, b, strict=True))) for b in wide[:3]]
             for a in wide[:3]]
    assert (wide @ wide[:3].T)[:3].tolist() == exact
    order = rng.permutation(dim)
    for i, j in ((1, 1), (1, 2), (2, 1)):
        assert float(wide[i] @ wide[j]) == exact[i][j]
        terms = (wide[i] * wide[j])[order]
        assert float(np.cumsum(terms)[-1]) == exact[i][j]


THREADS = """
import numpy as np
from siftune.selectors import Problem, select
V = np.random.default_rng(0).standard_normal((6000, 24)).astype(np.float32)
V /= np.linalg.norm(V, axis=1, keepdims=True)
S = np.einsum("qd,nd->qn", V[:5], V)  # no matrix product: its last digits depend on the number of threads
problem = Problem.from_similarities(S, vectors=lambda: iter([(0, V)]))
for name in ("k-center", "herding", "k-means-balanced", "deita", "knn-kde"):
    got = select(problem, 300, name)
    print(name, got.indices.tolist(), got.score.tobytes().hex())
"""


@pytest.mark.parametrize("kernel", [None, "Haswell"])
def test_the_number_of_threads_changes_nothing(kernel: str | None):
    """Nor with the kernels that BLAS has for processors without AVX-512, which share work out in another way."""
    if kernel and platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("a kernel for x86")
    environment = {**os.environ, **({"OPENBLAS_CORETYPE": kernel} if kernel else {})}
    running = [subprocess.Popen([sys.executable, "-c", THREADS], stdout=subprocess.PIPE, text=True,
                                env={**environment, "OMP_NUM_THREADS": threads}) for threads in ("1", "2")]
    one, two = (process.communicate()[0] for process in running)
    assert [process.returncode for process in running] == [0, 0]
    assert one == two
