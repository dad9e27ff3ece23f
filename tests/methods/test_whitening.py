"""Whitening against the principal components of the whole matrix, and what it does to cosines."""

from __future__ import annotations

import numpy as np
import pytest

from siftune._common.errors import ConfigError
from siftune.features.whitening import Whitening, moments
from siftune.methods.embedding import Embedding
from siftune.methods.rds import Rds
from tests.methods.contexts import examples, for_method, whole
from tests.methods.test_centring import of_text, rows, unit


def vectors(n: int = 60, width: int = 8) -> np.ndarray:
    rng = np.random.default_rng(0)
    return unit(rng.standard_normal((n, width)) * 2.0 ** -np.arange(width) + 1)


def streamed(X: np.ndarray, size: int):
    return lambda: ((start, X[start : start + size]) for start in range(0, len(X), size))


def expected(X: np.ndarray, others: np.ndarray, count: int) -> np.ndarray:
    """Unit [n, K]: by the singular value decomposition of the centred matrix."""
    X, others = X.astype(np.float64), others.astype(np.float64)
    _, scale, right = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)
    Z = (others - X.mean(axis=0)) @ right[:count].T / (scale[:count] / np.sqrt(len(X)))
    return Z / np.linalg.norm(Z, axis=1, keepdims=True)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_it_is_the_principal_components_scaled_alike(count):
    X = vectors()
    made = Whitening.of(streamed(X, 7), count)
    want = expected(X, X, count)
    got = made(X)
    np.testing.assert_allclose(got @ got.T, want @ want.T, atol=2e-4)
    wide = (X - made.mean) @ made.components.T
    np.testing.assert_allclose(wide.T @ wide / len(X), np.eye(count), atol=1e-3)
    assert (made.components[np.arange(count), np.abs(made.components).argmax(axis=1)] > 0).all()
    assert 0 < made.explained <= 1 + 1e-12


def test_the_covariance_is_the_same_to_the_last_bit_for_every_order_and_block():
    X = vectors(5000, 6)
    mean, covariance = moments(streamed(X, 5000))
    np.testing.assert_allclose(mean, X.astype(np.float64).mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(covariance, np.cov(X.T.astype(np.float64), bias=True), atol=1e-6)
    for size in (1, 13, 4999):
        again = moments(streamed(X[np.random.default_rng(size).permutation(len(X))], size))
        assert (again[0] == mean).all()
        assert (again[1] == covariance).all()


def of_model(folder, **changes):
    made = for_method("rds")(folder, **changes)
    made.existing = examples(3, 8)
    return made


@pytest.mark.parametrize(("representation", "make"), [(Rds, of_model), (Embedding, of_text)])
def test_similarities_of_a_method_are_cosines_of_whitened_vectors(tmp_path, representation, make):
    X = rows(representation().compute(make(tmp_path)).vectors)
    found = representation().compute(make(tmp_path, whiten=4))
    Z = expected(X, X, 4)
    near = rows(found.vectors)
    np.testing.assert_allclose(near @ near.T, Z @ Z.T, atol=5e-3)
    # The targets' own vectors are not told; but what is known of them, and of the pool, agrees with their cosines.
    for blocks in (found.blocks, found.existing):
        S = whole(blocks).astype(np.float64)
        Q, *_ = np.linalg.lstsq(near.astype(np.float64), S.T, rcond=None)
        np.testing.assert_allclose(near @ Q, S.T, atol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(Q, axis=0), 1, atol=1e-3)
    assert found.notes["whitened"]["components"] == 4
    assert found.notes["shared_by_all_rows"]


def test_more_components_than_the_pool_spans_are_refused():
    X = np.repeat(vectors(5), 3, axis=0)
    with pytest.raises(ConfigError, match="span 4 dimensions, not 5"):
        Whitening.of(streamed(X, 4), 5)
    with pytest.raises(ConfigError, match="span 0 dimensions"):
        Whitening.of(streamed(X[:1], 4), 1)


def test_a_vector_of_zeros_has_no_direction():
    X = np.concatenate([vectors(), np.zeros((1, 8), np.float32)])
    assert not Whitening.of(streamed(X, 9), 3)(X)[-1].any()
