"""Every storage type against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from siftune.features.store.codec import DTYPES, bytes_per_row, decode, encode


def through(features: np.ndarray, dtype: str) -> np.ndarray:
    arrays = encode("feature", features, dtype)
    assert all(len(array) == len(features) for array in arrays.values())
    return decode("feature", arrays, arrays.__getitem__)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_what_comes_back_is_within_the_type(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    n, d = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 70))
    x = (rng.standard_normal((n, d)) * 10.0 ** rng.integers(-6, 1, (n, 1))).astype(np.float32)
    x[0, 0] = 0.0
    np.testing.assert_array_equal(through(x, "float32"), x)
    np.testing.assert_allclose(through(x, "float16"), x, rtol=1e-3, atol=6e-8)
    np.testing.assert_array_equal(through(x, "bfloat16"), torch.from_numpy(x).bfloat16().float().numpy())
    step = np.abs(x).max(axis=1, keepdims=True) / 127
    assert (np.abs(through(x, "int8") - x) <= step / 2 * 1.0001 + 1e-30).all()
    signs = through(x, "1bit")
    np.testing.assert_allclose(signs, np.where(x >= 0, 1, -1) / np.sqrt(d), rtol=1e-6)


def test_a_row_of_zeros_stays_one():
    zeros = np.zeros((2, 9), np.float32)
    for dtype in ("float16", "bfloat16", "int8"):
        np.testing.assert_array_equal(through(zeros, dtype), zeros)


def test_signs_keep_the_order_of_inner_products_with_a_full_query():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 4096)).astype(np.float32)
    q = x[:40].sum(axis=0) + 3 * rng.standard_normal(4096)
    exact, signs = x @ q, through(x, "1bit") @ q
    assert np.corrcoef(exact, signs)[0, 1] > 0.75
    assert len(set(np.argsort(-exact)[:40]) & set(np.argsort(-signs)[:40])) > 30


def test_bytes_per_row():
    assert [bytes_per_row(8192, dtype) for dtype in DTYPES] == [32768, 16384, 16384, 8192 + 4, 1024 + 4]


def test_an_unknown_type_is_an_error():
    with pytest.raises(ValueError, match="float8"):
        encode("feature", np.zeros((1, 2), np.float32), "float8")
