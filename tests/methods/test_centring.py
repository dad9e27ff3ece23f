"""Taking out what all rows share: the mean, what is left of a row, and what it does to similarities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siftune.features.centring import (
    REFERENCE_ROWS,
    Centred,
    centred,
    centred_queries,
    less_mean,
    mean_vector,
    reference_rows,
)
from siftune.features.similarity import Queries, weighted_blocks
from siftune.features.store import FeatureStore
from siftune.methods.embedding import Embedding
from siftune.methods.from_file import FromFile
from siftune.methods.gist import Gist
from siftune.methods.less import Less
from siftune.methods.logra import LoGra
from siftune.methods.rds import Rds
from tests.methods import texts
from tests.methods.contexts import examples, for_method, whole

context = for_method("less")


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def stored(folder, features: np.ndarray, shard_rows: int = 7) -> FeatureStore:
    store = FeatureStore.open(folder, {"of": "test"}, rows=len(features), shard_rows=shard_rows)
    for shard in store.missing():
        store.write(shard, {"feature": features[shard.start : shard.stop]})
    return store


@given(st.integers(0, 10_000), st.integers(2, 30), st.integers(2, 9))
def test_what_is_left_of_unit_vectors_is_of_length_one_and_the_mean_is_gone(seed, rows, width):
    features = unit(np.random.default_rng(seed).standard_normal((rows, width)))
    mean = features.astype(np.float64).mean(axis=0)
    left, lengths = less_mean(features, mean)
    np.testing.assert_allclose(np.linalg.norm(left, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(left * lengths[:, None], features - mean, atol=1e-6)
    np.testing.assert_allclose((left * lengths[:, None]).sum(axis=0), 0, atol=1e-5)


def test_the_mean_is_the_same_to_the_last_bit_for_every_order_and_shard(tmp_path):
    features = unit(np.random.default_rng(0).standard_normal((100, 16)) + 3)
    first = mean_vector(stored(tmp_path / "a", features).feature_blocks)
    np.testing.assert_allclose(first, features.astype(np.float64).mean(axis=0), atol=1e-9)
    for number, size in enumerate((1, 13, 100)):
        order = np.random.default_rng(size).permutation(100)
        assert (mean_vector(stored(tmp_path / f"{number}", features[order], size).feature_blocks) == first).all()


def test_rows_that_are_all_alike_have_no_direction_left(tmp_path):
    store = stored(tmp_path, np.repeat(unit(np.ones((1, 8))), 10, axis=0))
    view = Centred(store, mean_vector(store.feature_blocks))
    assert all((view.features(shard) == 0).all() for shard in view.shards())


def test_a_shared_direction_no_longer_decides_who_is_near(tmp_path):
    """Rows share a long vector, and so does the target: the shorter a row's own part, the nearer it seems."""
    rng = np.random.default_rng(1)
    rows, width, few = 200, 1024, 10
    shared, topic = np.eye(width)[:2]
    long = np.arange(rows) < few  # the first ten are what the target is about; their gradients are long
    own = unit(rng.standard_normal((rows, width))) * np.where(long, 5.0, 0.5)[:, None] + 2 * long[:, None] * topic
    plain = own + 0.5 * shared
    store = stored(tmp_path, unit(own + 8 * shared))
    target = unit((0.3 * topic + 0.5 * shared)[None] + 0.4 * unit(rng.standard_normal((1, width))))

    def similarities(rows, query):
        return np.concatenate([b for _, b in weighted_blocks([rows], [query], np.ones(1))], axis=1)[0]

    before = similarities(store, target)
    query = centred_queries(Queries(target, np.ones(1, np.float32)), unit(plain).astype(np.float64).mean(axis=0))
    after = similarities(Centred(store, mean_vector(store.feature_blocks)), query.feature)
    assert set(np.argsort(-after)[:few]) == set(range(few))
    assert not set(np.argsort(-before)[:few]) & set(range(few))


def test_reference_rows_are_the_same_for_every_order_of_the_pool():
    pool = examples(REFERENCE_ROWS + 40, 3)
    backwards = type(pool)(pool.rows[::-1], pool.rendered[::-1])
    chosen = reference_rows(pool, 5)
    assert len(chosen) == REFERENCE_ROWS
    assert set(chosen.ids) == set(reference_rows(backwards, 5).ids) != set(reference_rows(pool, 6).ids)


@pytest.mark.parametrize("changes", [{}, {"damping": 0.1}], ids=["plain", "damped"])
def test_a_centred_run_reads_the_same_features_and_those_of_some_rows_besides(tmp_path, changes):
    Less().compute(context(tmp_path, **changes))
    again = context(tmp_path, center=True, **changes)
    found = Less().compute(again)
    fresh = {step["step"] for step in again.clock.steps if not step.get("reused")}
    assert fresh - {"preconditioner"} == {"reference features", "centre"}
    assert all(0 < share <= 1 for share in found.notes["shared_by_all_rows"])
    (_, first), *_ = found.vectors()
    assert np.isfinite(first).all()


def expected(vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Cosines after the pool's mean is taken out of both, in plain loops."""
    mean = sum(vectors.astype(np.float64)) / len(vectors)
    left, right = [q - mean for q in others], [x - mean for x in vectors]
    return np.array([[sum(q * x) / np.sqrt(sum(q * q) * sum(x * x)) for x in right] for q in left])


def spanned(X: np.ndarray, cosines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors [M, D + 1] that have these cosines with the rows of X, and X with a coordinate of zeros beside: what
    lies outside of the span of X is not known, but only its length matters."""
    Q = np.linalg.lstsq(X.astype(np.float64), cosines.T.astype(np.float64), rcond=None)[0].T
    rest = np.sqrt(np.maximum(0, 1 - (Q * Q).sum(axis=1)))
    return np.pad(X, ((0, 0), (0, 1))), np.column_stack([Q, rest])


def rows(blocks) -> np.ndarray:
    return np.concatenate([block for _, block in blocks()])


def of_model(folder, **changes):
    made = context(folder, **changes)
    made.existing = examples(3, 8)
    return made


def of_text(folder, owner="embed", **changes):
    pool, target = texts.demo("pool", 12), texts.demo("target", 3)
    made = texts.context(folder, texts.examples(pool), texts.examples(target, "target"), owner=owner, **changes)
    made.existing = texts.examples(pool[:2], "known")
    return made


@pytest.mark.parametrize(("representation", "make"), [(Rds, of_model), (Embedding, of_text)])
def test_hidden_states_and_embeddings_less_their_mean_equal_plain_loops(tmp_path, representation, make):
    plain, found = (representation().compute(make(tmp_path, center=center)) for center in (False, True))
    X = rows(plain.vectors)
    S, T = whole(plain.blocks), whole(plain.existing)
    np.testing.assert_allclose(whole(found.blocks), expected(*spanned(X, S)), atol=1e-4)
    np.testing.assert_allclose(whole(found.existing), expected(*spanned(X, T)), atol=1e-4)
    centre = rows(found.vectors)
    np.testing.assert_allclose(centre @ centre.T, expected(X, X), atol=1e-4)
    assert found.notes["shared_by_all_rows"] == [pytest.approx(np.linalg.norm(X.mean(axis=0)), abs=1e-4)]


@pytest.mark.parametrize("with_targets", [False, True])
def test_vectors_of_a_file_less_their_mean_equal_plain_loops(tmp_path, with_targets):
    rng = np.random.default_rng(4)
    X, Q = unit(rng.standard_normal((12, 5)) + 2), unit(rng.standard_normal((3, 5)) + 2)
    X[4] = 0
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "q.npy", Q)
    given = {"target_vectors": str(tmp_path / "q.npy")} if with_targets else {}
    made = of_text(tmp_path, "file", center=True, **given)
    found = FromFile(str(tmp_path / "x.npy")).compute(made)
    vectors = rows(found.vectors)
    assert not vectors[4].any(), "a vector of zeros has no direction"
    others = np.delete(np.arange(12), 4)
    np.testing.assert_allclose((vectors @ vectors.T)[np.ix_(others, others)],
                               expected(X, X[others])[:, others], atol=1e-5)
    if with_targets:
        np.testing.assert_allclose(whole(found.blocks)[:, others], expected(X, Q)[:, others], atol=1e-5)


@pytest.mark.parametrize("representation", [Gist, LoGra])
def test_plain_gradients_need_no_rows_besides(tmp_path, representation):
    context = for_method(representation.name)
    plain = whole(representation().compute(context(tmp_path)).blocks)
    again = context(tmp_path, center=True)
    found = representation().compute(again)
    assert {step["step"] for step in again.clock.steps if not step.get("reused")} <= {"centre", "target subspace"}
    assert np.abs(whole(found.blocks) - plain).max() > 0.01


def test_without_the_setting_nothing_changes(tmp_path):
    vectors, other = (lambda: iter([(0, np.eye(3, dtype=np.float32))])), np.ones((1, 3), np.float32)
    same, [kept, none], notes = centred(context(tmp_path), vectors, other, None)
    assert (same, kept is other, none, notes) == (vectors, True, None, {})
