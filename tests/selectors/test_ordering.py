from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siftune.selectors.core import ordering
from siftune.selectors.core.top_lists import top_lists

VALUES = st.lists(st.sampled_from([-1.5, -0.0, 0.0, 0.25, 1.0]) | st.floats(-2, 2), min_size=1, max_size=60)


@given(VALUES, st.integers(0, 70), st.randoms(use_true_random=False))
def test_best_first_is_the_sort_by_value_then_tiebreak(values, limit, random):
    tiebreak = list(range(len(values)))
    random.shuffle(tiebreak)
    expected = sorted(range(len(values)), key=lambda i: (-values[i], tiebreak[i]))
    got = ordering.best_first(np.array(values), np.array(tiebreak))
    assert got.tolist() == expected
    assert ordering.best_first(np.array(values), np.array(tiebreak), limit).tolist() == expected[:limit]
    assert set(ordering.best(np.array(values), np.array(tiebreak), limit).tolist()) == set(expected[:limit])


@given(st.lists(st.text(max_size=4), unique=True, min_size=1, max_size=20), st.data())
def test_the_tiebreak_is_mean_descending_then_id_ascending(ids, data):
    mean = data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=len(ids), max_size=len(ids)))
    by_hand = sorted(range(len(ids)), key=lambda i: (-mean[i], ids[i]))
    assert np.argsort(ordering.tiebreak(ids, np.array(mean))).tolist() == by_hand
    assert np.argsort(ordering.tiebreak(ids)).tolist() == sorted(range(len(ids)), key=ids.__getitem__)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 60), st.integers(1, 70), st.integers(1, 70))
def test_lists_merged_across_blocks_are_those_of_the_whole(seed, players, n, block_rows, length):
    rng = np.random.default_rng(seed)
    S = np.round(rng.standard_normal((players, n)) * 2) / 2
    usable, tiebreak = rng.random(n) < 0.8, rng.permutation(n)
    lists = top_lists(lambda: ((s, S[:, s:s + block_rows]) for s in range(0, n, block_rows)), players, tiebreak,
                      usable, length)
    for player in range(players):
        expected = sorted(np.flatnonzero(usable), key=lambda j, p=player: (-S[p, j], tiebreak[j]))[:length]
        assert lists.rows[player].tolist() == expected
        assert lists.scores[player].tolist() == S[player, expected].tolist()
    assert lists.complete == (length >= usable.sum())


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_an_order_of_nothing_is_empty(limit):
    assert ordering.best_first(np.empty(0), np.empty(0, dtype=int), limit).tolist() == []
