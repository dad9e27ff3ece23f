"""Neighbours by inverted lists: exact where every list is asked, near to it where few are, the same in any order."""

from __future__ import annotations

import numpy as np
import pytest

from siftune.selectors import Problem
from siftune.selectors.core import neighbors
from siftune.selectors.core.grid import Vectors
from siftune.selectors.core.inverted_lists import nominated
from siftune.selectors.core.neighbors import nearest_neighbors


def clustered(n: int, width: int = 24, clusters: int = 60, seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((clusters, width))[rng.integers(0, clusters, n)] + 0.4 * rng.standard_normal((n, width))
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)


def pool_of(X: np.ndarray) -> Vectors:
    return Vectors.of(Problem([f"{i:05d}" for i in range(len(X))], vectors=lambda: iter([(0, X)])))


def by_brute_force(X: np.ndarray, count: int) -> list[set[int]]:
    return [set(line.tolist()) for line in np.argsort(-(X.astype(np.float64) @ X.T.astype(np.float64)))[:, :count]]


def found_sets(near: np.ndarray) -> list[set[int]]:
    return [set(line[line >= 0].tolist()) for line in near]


def test_with_every_list_asked_the_nominees_are_the_nearest_rows():
    X = clustered(700)
    near = nominated(X, np.arange(700), 9, probes=10_000)
    assert near.shape == (700, 9)
    assert found_sets(near) == by_brute_force(X, 9)


def test_few_lists_find_most_and_more_lists_find_more():
    X = clustered(2000)
    exact = by_brute_force(X, 10)
    recalls = [np.mean([len(a & b) / 10 for a, b in zip(found_sets(nominated(X, np.arange(2000), 10, probes)), exact,
                                                        strict=True)]) for probes in (1, 4, 16)]
    assert recalls == sorted(recalls)
    assert recalls[1] > 0.5
    assert recalls[2] > 0.95


def test_a_row_whose_lists_hold_too_few_rows_has_fewer_nominees_and_none_twice():
    X = clustered(400)
    near = nominated(X, np.arange(400), 300, probes=1)
    assert (near == -1).any()
    for line in near:
        rows = line[line >= 0].tolist()
        assert len(rows) == len(set(rows))


@pytest.mark.parametrize("entries", [64, 2**22])
def test_how_many_are_multiplied_together_changes_nothing_but_rounding(entries, monkeypatch):
    X = np.sign(clustered(500, width=16))  # inner products are whole numbers: nothing is rounded
    X[:, 0] *= 1 + np.arange(500) % 7
    expected = nominated(X, np.arange(500), 5)
    monkeypatch.setattr("siftune.selectors.core.inverted_lists._ENTRIES", entries)
    assert nominated(X, np.arange(500), 5).tolist() == expected.tolist()


def test_the_order_of_the_pool_changes_nothing():
    X = clustered(900)
    order = np.random.default_rng(0).permutation(900)
    straight = nominated(X, np.arange(900), 7)
    shuffled = nominated(X[order], np.argsort(order), 7)  # by id, these are the same rows
    assert order[shuffled].tolist() == straight[order].tolist()


def test_large_pools_are_compared_by_lists_unless_the_exact_way_is_asked_for(monkeypatch):
    monkeypatch.setattr(neighbors, "LARGEST_FLAT", 300)
    small, large = pool_of(clustered(300)), pool_of(clustered(301))
    assert nearest_neighbors(small, np.arange(300), 4).facts["index"] == "flat"
    told = nearest_neighbors(large, np.arange(301), 4).facts
    assert (told["index"], told["approximate"]) == ("ivf", True)
    assert nearest_neighbors(large, np.arange(301), 4, "flat").facts["index"] == "flat"
