"""Nominated pairs against plain comparisons of everything with everything."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from siftune.features.in_context.nomination import all_pairs, nominated


def unit(rng: np.random.Generator, n: int) -> np.ndarray:
    x = rng.standard_normal((n, 6)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def near(similar: np.ndarray, k: int) -> set[int]:
    """The k largest, the first among equals; -inf is never among them."""
    order = sorted(range(len(similar)), key=lambda i: (-similar[i], i))
    return {i for i in order if similar[i] > -np.inf and order.index(i) < k}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 25), st.integers(1, 12), st.booleans(), st.integers(0, 6),
       st.integers(0, 6))
def test_near_pairs_both_ways_and_random_ones_besides(seed, n, c, across, k, drawn):
    rng = np.random.default_rng(seed)
    rows = unit(rng, n)
    if across:
        examples, same = unit(rng, c), np.full(c, -1)
        if c <= n:  # some examples are rows themselves
            examples[0], same[0] = rows[-1], n - 1
    else:
        examples, same = rows, np.arange(n)
    ids = [f"e{j:03}" for j in range(len(examples))]
    S = rows.astype(np.float64) @ examples.astype(np.float64).T
    for j, own in enumerate(same.tolist()):
        if own >= 0:
            S[own, j] = -np.inf
    wanted: list[set[int]] = [near(S[:, j], k) for j in range(len(examples))]
    for i in range(n):
        for j in near(S[i], k):
            wanted[j].add(i)
    found = nominated(rows, examples if across else None, same, ids, nominees=k, random_nominees=drawn, seed=seed)
    for j, (got, must) in enumerate(zip(found, wanted, strict=True)):
        free = n - len(must) - (same[j] >= 0)
        assert got.tolist() == sorted(set(got.tolist()))
        assert must <= set(got.tolist())
        assert len(got) == len(must) + min(drawn, free)
        assert int(same[j]) not in got
        assert not len(got) or 0 <= got.min() <= got.max() < n


def test_random_nominees_depend_on_the_seed_and_the_example_only():
    rows = unit(np.random.default_rng(0), 200)
    same, ids = np.arange(200), [f"e{j:03}" for j in range(200)]
    one, again, other = (nominated(rows, None, same, ids, nominees=0, random_nominees=20, seed=seed)
                         for seed in (1, 1, 2))
    assert [x.tolist() for x in one] == [x.tolist() for x in again]
    assert [x.tolist() for x in one] != [x.tolist() for x in other]
    assert one[0].tolist() != one[1].tolist()
    counts = np.bincount(np.concatenate(one), minlength=200)
    assert abs(counts.mean() - 20) < 1e-9
    assert counts.min() > 4, "no row is favoured: 20 +- 4.2 each"
    assert counts.max() < 42


def test_all_pairs_leave_out_the_example_itself():
    assert [x.tolist() for x in all_pairs(3, [0, -1, 2])] == [[1, 2], [0, 1, 2], [0, 1]]
