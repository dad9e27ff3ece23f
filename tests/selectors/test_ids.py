from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siftune._common.errors import SiftuneError
from siftune.selectors import Problem, select
from siftune.selectors.core import ordering
from siftune.selectors.core.ids import PackedIds

# Few letters make long common prefixes; NUL, accents and characters beyond the first plane test the order of bytes.
TEXT = st.text(alphabet="ab\0é\U0001f600\uffff", max_size=20) | st.text(max_size=4).map("a-common-prefix/{}".format)


@settings(max_examples=200)
@given(st.lists(TEXT, max_size=40))
def test_packed_ids_read_as_the_strings_they_were_made_of(ids):
    packed = PackedIds.pack(iter(ids))
    assert list(packed) == ids
    assert [packed[i] for i in range(-len(ids), len(ids))] == ids + ids
    assert list(packed[1:4]) == ids[1:4]
    assert len(packed) == len(ids)
    with pytest.raises(IndexError):
        packed[len(ids)]


@settings(max_examples=200)
@given(st.lists(TEXT, max_size=40))
def test_packed_ids_are_ranked_by_code_point_and_told_apart(ids):
    packed = PackedIds.pack(ids)
    assert (packed.twice is None) == (len(set(ids)) == len(ids))
    if packed.twice is None:
        assert np.argsort(packed.rank).tolist() == sorted(range(len(ids)), key=ids.__getitem__)
        assert packed.rank.tolist() == ordering.id_rank(ids).tolist()
    else:
        assert ids.count(packed.twice) > 1


def test_a_problem_of_packed_ids_gives_the_selection_of_plain_ones():
    rng = np.random.default_rng(0)
    S = np.round(rng.standard_normal((5, 70_000)), 1)
    ids = [f"source/{i}" for i in rng.permutation(70_000)]
    plain = Problem.from_similarities(S, ids=ids)
    packed = Problem.from_similarities(S, ids=PackedIds.pack(ids))
    assert isinstance(packed.ids, PackedIds)
    for selector in ("round-robin", "top-k-mean", "random"):
        one, two = select(plain, 2_000, selector), select(packed, 2_000, selector)
        assert one.ids(plain) == two.ids(packed)
    chosen = packed.constrained(must_include=["source/77"], must_exclude=["source/5"])
    assert select(chosen, 3).ids(chosen)[0] == "source/77"


def test_packed_ids_that_occur_twice_are_refused_by_name():
    with pytest.raises(SiftuneError, match="row id 'x' occurs more than once"):
        Problem(ids=PackedIds.pack(["x", "y", "x"]))
