from __future__ import annotations

import random
import sys
import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siftune._common.errors import ConfigError
from siftune.data import near_duplicates
from siftune.data.near_duplicates import _equal, _groups, bands, jaccard, near_duplicate_groups, shingles
from siftune.data.overlap import normalised_key
from siftune.data.rows import Row
from tests.data.samples import row

WORDS = [first + rest for first in "bdfglmnprst" for rest in ("ad", "en", "ig", "ot", "ul")]


def corpus(seed: int) -> list[Row]:
    """Families of texts, each member with a few words of the original changed, in random order."""
    chance = random.Random(seed)
    texts = []
    for _ in range(12):
        original = [chance.choice(WORDS) for _ in range(40)]
        for changes in (0, 0, 1, 2, 6):
            words = list(original)
            for position in chance.sample(range(40), changes):
                words[position] = chance.choice(WORDS)
            texts.append(" ".join(words))
    chance.shuffle(texts)
    return [row(text, "Yes", id=str(i)) for i, text in enumerate(texts)]


def brute_force(rows: list[Row], threshold: float) -> list[list[int]]:
    sets = [{tuple(words[i:i + 3]) for i in range(len(words) - 2)}
            for words in (normalised_key(one).split() for one in rows)]
    group = list(range(len(rows)))
    for i in range(len(rows)):
        for j in range(i):
            if len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= threshold:
                old, new = max(group[i], group[j]), min(group[i], group[j])
                group = [new if g == old else g for g in group]
    return [members for g in sorted(set(group)) if len(members := [i for i, h in enumerate(group) if h == g]) > 1]


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.8])
def test_groups_are_those_of_comparing_all_pairs(threshold: float) -> None:
    rows = corpus(seed=0)
    groups = near_duplicate_groups(rows, threshold)
    assert groups == brute_force(rows, threshold)
    assert groups == near_duplicate_groups(rows, threshold)
    assert len(groups) == 12


@pytest.mark.parametrize("threshold", [0.5, 1.0])
def test_equal_texts_are_always_grouped_however_short(threshold: float) -> None:
    texts = ["Hi", "日本語", "hi!", "", "no", "日本語", ""]
    rows = [row(text, "Yes", id=str(i)) for i, text in enumerate(texts)]
    assert near_duplicate_groups(rows, threshold) == [[0, 2], [1, 5], [3, 6]]


def test_short_texts_have_one_shingle_and_unspaced_scripts_one_word_a_character() -> None:
    assert len(shingles("")) == len(shingles("one")) == len(shingles("one two")) == len(shingles("one two three")) == 1
    assert len(shingles("one two three four")) == 2
    assert len(shingles("日本語の")) == 2
    assert jaccard(shingles("a b c d"), shingles("b c d e")) == pytest.approx(1 / 3)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.95])
def test_bands_propose_pairs_at_the_threshold_and_no_longer_bands_would(threshold: float) -> None:
    b, r = bands(threshold)
    assert b * r <= 128
    assert (1 - threshold**r) ** b <= 1e-3
    assert (1 - threshold ** (r + 1)) ** (128 // (r + 1)) > 1e-3


def test_no_rows_have_no_groups_and_the_threshold_is_checked() -> None:
    assert near_duplicate_groups([], 0.8) == []
    for threshold in (0.0, 1.1):
        with pytest.raises(ConfigError, match="out of range"):
            near_duplicate_groups([], threshold)


def test_without_datasketch_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(ConfigError, match=r"pip install 'siftune\[dedup\]'"):
        near_duplicate_groups(corpus(seed=0), 0.8)


class MadeRows(Sequence[Row]):
    """Rows that are made when they are looked at, as rows of a file are read."""

    def __init__(self, count: int, words: int):
        self.count, self.words = count, words

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, at: Any) -> Any:
        if at >= self.count:
            raise IndexError(at)
        chance = random.Random(at % (self.count - 1))  # the last is the first again, but for a word
        words = [chance.choice(WORDS) for _ in range(self.words)]
        return row(" ".join([*words, "again"] if at == self.count - 1 else words), "Yes", id=str(at))


def test_what_is_held_of_a_row_does_not_grow_with_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "_KEPT", 16)
    monkeypatch.setattr(near_duplicates, "_AT_ONCE", 64)
    rows = MadeRows(400, words=400)
    held = sum(shingles(normalised_key(rows[i])).nbytes for i in range(40)) * 10  # what one set a row would take
    near_duplicate_groups(MadeRows(10, 10), 0.8)  # imports
    tracemalloc.start()
    assert near_duplicate_groups(rows, 0.8) == [[0, 399]]
    assert tracemalloc.get_traced_memory()[1] < held / 2
    tracemalloc.stop()


@given(st.lists(st.integers(0, 9), max_size=60))
def test_buckets_are_the_places_of_equal_numbers(numbers: list[int]) -> None:
    found = [bucket.tolist() for bucket in _equal(np.array(numbers, dtype=np.uint32))]
    places = [[i for i, other in enumerate(numbers) if other == one] for one in sorted(set(numbers))]
    assert found == [some for some in places if len(some) > 1]


@given(st.data())
def test_groups_follow_parents_to_their_end(data: st.DataObject) -> None:
    parent = [data.draw(st.integers(0, i)) for i in range(data.draw(st.integers(0, 30)))]
    first = []
    for above in parent:
        first.append(above if above == len(first) else first[above])
    expected = [[i for i, one in enumerate(first) if one == root] for root in sorted(set(first))]
    assert _groups(np.array(parent, dtype=np.int64)) == [group for group in expected if len(group) > 1]
