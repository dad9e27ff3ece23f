"""MADS's feature sets against plain loops, and the memory that they take."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siftune.features.activations import Sets
from siftune.features.store import FeatureStore
from siftune.methods.mads import Mads
from siftune.methods.nag import Nag
from siftune.selectors import Problem, select
from tests import tiny
from tests.features.forward import oracle
from tests.methods.contexts import for_method

context = for_method("mads")


def expected(made, architecture: str, neurons="gated", span="response", aggregate="mean", count=20, threshold=0.0):
    """bool [N, L I]."""
    rows = []
    for row in made.pool.rendered:
        magnitude = oracle.magnitudes(oracle.see(made.model.model, architecture, row), row, neurons, span, aggregate)
        flags = magnitude > threshold
        if not threshold:
            flags[:] = False
            for layer, chosen in enumerate(oracle.strongest(magnitude, count)):
                flags[layer, sorted(chosen)] = True
        rows.append(flags.ravel())
    return np.array(rows)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_sets_equal_the_plain_loop_oracle(architecture, tmp_path):
    for batch_tokens in (1, 64, 4096):
        made = context(tmp_path / str(batch_tokens), architecture=architecture, batch_tokens=batch_tokens)
        sets = Mads().compute(made).sets()
        np.testing.assert_array_equal(sets.toarray(), expected(made, architecture))
        assert (sets.data.dtype, sets.indices.dtype, sets.indptr.dtype) == (bool, np.int32, np.int32)
        assert sets.has_canonical_format


@pytest.mark.parametrize("changes", [
    {"neurons": "up", "span": "all"}, {"aggregate": "max", "active": 3}, {"span": "prompt"},
    {"threshold": 0.25}, {"threshold": 0.4, "aggregate": "max", "span": "all"},
])
def test_every_setting_is_what_it_says(changes, tmp_path):
    made = context(tmp_path, **changes)
    sets = Mads().compute(made).sets()
    wanted = {"count" if name == "active" else name: value for name, value in changes.items()}
    np.testing.assert_array_equal(sets.toarray(), expected(made, "llama", **wanted))
    assert 0 < sets.nnz < sets.shape[0] * sets.shape[1]


def test_settings_have_stores_of_their_own_and_equal_ones_share_one(tmp_path):
    for changes in ({}, {"active": 7}, {"aggregate": "max"}, {"threshold": 0.25}):
        Mads().compute(context(tmp_path, **changes))
    names = {path.name for path in (tmp_path / "store").iterdir()}
    assert names == {"active-gated-response-mean-top20", "active-gated-response-mean-top7",
                     "active-gated-response-max-top20", "active-gated-response-mean-above0.25"}
    made = for_method("nag")(tmp_path, neurons="gated", span="response")
    Nag().compute(made)
    assert [step["reused"] for step in made.clock.steps] == [True, False], "only the targets are new"


@pytest.mark.parametrize("changes", [{}, {"threshold": 0.25}])
def test_copies_have_the_same_set(changes, tmp_path):
    made = context(tmp_path, batch_tokens=64, **changes)
    made.pool.rendered[11] = made.pool.rendered[2]
    found = Mads().compute(made)
    store = FeatureStore.load(found.stores[0])
    name = "active.bits" if changes else "active"
    arrays = store.read(store.shards()[2], name).copy()
    arrays[1] = arrays[0]  # row 11 as rounding in another batch might have left it
    store.write(store.shards()[2], {name: arrays})
    sets = found.sets().toarray()
    np.testing.assert_array_equal(sets[11], sets[2])
    np.testing.assert_array_equal(sets, expected(made, "llama", threshold=changes.get("threshold", 0.0)))


def test_notes_warn_where_longer_responses_have_larger_sets(tmp_path, capsys):
    constant = Mads().compute(context(tmp_path)).notes
    assert constant["set_size"] == {"mean": 60.0, "least": 60, "most": 60}
    assert constant["set_size_by_length"] is None
    made = context(tmp_path, threshold=0.4, aggregate="max")
    for i, row in enumerate(made.pool.rendered):
        row.mask[-min(1 + i, len(row) - 2):] = True
    found = Mads().compute(made)
    sizes, lengths = found.sets().sum(axis=1), [row.supervised for row in made.pool.rendered]
    by_length = np.corrcoef(sizes, lengths)[0, 1]
    assert found.notes["set_size_by_length"] == pytest.approx(by_length)
    assert by_length > 0.5, "the largest of more tokens is larger"
    assert "(active)" in found.notes["set_size_warning"]
    assert "chooses by length" in capsys.readouterr().err


def test_coverage_takes_the_rows_that_a_plain_greedy_takes(tmp_path):
    made = context(tmp_path, active=4)
    sets = Mads().compute(made).sets()
    chosen = select(Problem(ids=made.pool.ids, sets=sets), 4, "coverage")
    dense, covered, taken = sets.toarray(), np.zeros(sets.shape[1], bool), []
    for _ in range(4):
        gains = [(-int((row & ~covered).sum()), made.pool.ids[i], i) for i, row in enumerate(dense) if i not in taken]
        taken.append(min(gains)[2])
        covered |= dense[taken[-1]]
    assert chosen.indices.tolist() == taken


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_the_matrix_holds_what_the_store_holds(tmp_path_factory, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    rows, layers, width = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 3)), data.draw(st.integers(1, 9))
    first = np.arange(rows)
    for row in range(1, rows):
        if rng.random() < 0.3:
            first[row] = first[rng.integers(row)]
    bits = data.draw(st.booleans())
    if bits:
        flags = rng.random((rows, layers * width)) < 0.4
        arrays = {"active.bits": np.packbits(flags, axis=1)}
    else:
        count = int(rng.integers(1, width + 1))
        places = np.sort(np.argsort(rng.random((rows, layers, width)), axis=2)[:, :, :count], axis=2)
        flags = np.zeros((rows, layers, width), bool)
        np.put_along_axis(flags, places, True, axis=2)
        flags, arrays = flags.reshape(rows, -1), {"active": places.reshape(rows, -1).astype(np.uint16)}
    store = FeatureStore.open(tmp_path_factory.mktemp("sets"), {}, rows=rows, shard_rows=data.draw(st.integers(1, 12)))
    for shard in store.shards():
        store.write(shard, {name: array[shard.start:shard.stop] for name, array in arrays.items()})
    sets = Sets(store, layers, width, bits)
    np.testing.assert_array_equal(sets.matrix(first).toarray(), flags[first])
    np.testing.assert_array_equal(sets.sizes(), flags.sum(axis=1))
