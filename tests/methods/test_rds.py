"""RDS+ against its formula in plain loops, and what is kept of it."""

from __future__ import annotations

import numpy as np
import pytest

from siftune._common.errors import StoreMismatch
from siftune.features.store import FeatureStore
from siftune.methods.rds import Rds
from tests import tiny
from tests.features.forward import oracle
from tests.methods.contexts import examples, for_method, whole

context = for_method("rds")


def cosines(made, architecture: str, queries, rows) -> np.ndarray:
    model = made.model.model
    left = [oracle.weighted_mean(oracle.see(model, architecture, row)) for row in queries]
    right = [oracle.weighted_mean(oracle.see(model, architecture, row)) for row in rows]
    return np.array([[sum(a * b) for b in right] for a in left])


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_similarities_equal_the_plain_loop_oracle(architecture, tmp_path):
    made = context(tmp_path, architecture=architecture)
    pool, known = made.pool.rendered, examples(3, 8)
    to_targets = cosines(made, architecture, made.target.rendered, pool)
    to_known, among = (cosines(made, architecture, rows, pool) for rows in (known.rendered, pool))
    for batch_tokens in (1, 64, 4096):
        made = context(tmp_path / str(batch_tokens), architecture=architecture, batch_tokens=batch_tokens)
        made.existing = known
        found = Rds().compute(made)
        np.testing.assert_allclose(whole(found.blocks), to_targets, atol=1e-4)
        np.testing.assert_allclose(whole(found.existing), to_known, atol=1e-4)
        vectors = np.concatenate([block for _, block in found.vectors()])
        np.testing.assert_allclose(vectors @ vectors.T, among, atol=1e-4)
        np.testing.assert_allclose(np.diag(vectors @ vectors.T), 1, atol=1e-5)


@pytest.mark.parametrize(("dtype", "most"), [("float16", 2e-3), ("int8", 2e-2), ("1bit", 0.5)])
def test_the_pool_is_stored_as_asked_and_the_targets_in_full(dtype, most, tmp_path):
    exact = whole(Rds().compute(context(tmp_path / "whole")).blocks)
    made = context(tmp_path / "small", feature_dtype=dtype)
    found = Rds().compute(made)
    error = np.abs(whole(found.blocks) - exact).max()
    assert 0 < error < most
    [target] = (tmp_path / "small/store/rds").glob("target-*/base")
    assert FeatureStore.load(target).fingerprint["feature_dtype"] == "float32"


def test_copies_are_alike_and_neither_order_nor_shards_matter(tmp_path):
    made = context(tmp_path / "a", batch_tokens=64)
    made.pool.rendered[11] = made.pool.rendered[2]
    first = whole(Rds().compute(made).blocks)
    np.testing.assert_array_equal(first[:, 11], first[:, 2])
    order = np.random.default_rng(0).permutation(13)
    other = context(tmp_path / "b", batch_tokens=100, shard_rows=3)
    other.pool.rendered[11] = other.pool.rendered[2]
    other.pool.rows = [other.pool.rows[i] for i in order]
    other.pool.rendered = [other.pool.rendered[i] for i in order]
    np.testing.assert_allclose(whole(Rds().compute(other).blocks), first[:, order], atol=1e-6)


def test_it_is_reused_and_belongs_to_its_model(tmp_path):
    first = whole(Rds().compute(context(tmp_path)).blocks)
    again = context(tmp_path)
    np.testing.assert_array_equal(whole(Rds().compute(again).blocks), first)
    assert [step["reused"] for step in again.clock.steps] == [True, True]
    with pytest.raises(StoreMismatch, match="model"):
        Rds().compute(context(tmp_path, model_seed=1))
    replaced = whole(Rds().compute(context(tmp_path, model_seed=1, recompute=True)).blocks)
    assert np.abs(replaced - first).max() > 0.01
    assert FeatureStore.load(tmp_path / "store/rds/pool/base").complete
