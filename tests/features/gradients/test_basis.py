"""Directions on disk: products with them, their Gram matrix, and a disk without room."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from siftune._common.errors import SiftuneError
from siftune.features.gradients import basis
from siftune.features.gradients.basis import Basis, Directions
from siftune.features.gradients.engine import LayerGradient

SIZES = {"a": 30, "b": 7, "c": 64}


@pytest.fixture
def made(tmp_path: Path) -> Directions:
    directions = Directions.create(tmp_path / "x" / "directions.npy", 5, SIZES)
    directions.matrix[:] = np.random.default_rng(0).standard_normal(directions.matrix.shape)
    directions.matrix.flush()  # type: ignore[attr-defined]
    return directions


def test_products_are_added_up_parameter_by_parameter_in_any_order(made: Directions) -> None:
    x = torch.randn(4, sum(SIZES.values()), generator=torch.Generator().manual_seed(0))
    parts = dict(zip(SIZES, x.split(list(SIZES.values()), dim=1), strict=True))
    projection = Basis.stored(made.keep("a test"))
    for order in (["a", "b", "c"], ["c", "a", "b"]):
        sketch = projection.new(4, "cpu")
        for name in order:
            projection.add(sketch, LayerGradient.of(name, parts[name]))
        np.testing.assert_allclose(projection.read(sketch), x.numpy() @ np.asarray(made.matrix).T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 10, 1000])
def test_gram_and_combinations_do_not_depend_on_the_range_of_columns(made: Directions, chunk: int,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(basis, "CHUNK", chunk)
    matrix = np.asarray(made.matrix, dtype=np.float64)
    np.testing.assert_allclose(made.gram(), matrix @ matrix.T, rtol=1e-12)
    weights = np.arange(10.0).reshape(2, 5)
    other = made.combined(made.path.with_name("other.npy"), weights)
    np.testing.assert_allclose(other.matrix, weights @ matrix, rtol=1e-5)
    assert other.places == made.places
    other.remove()
    assert [p.name for p in made.path.parent.iterdir()] == ["directions.npy"]


def test_a_full_disk_is_an_error_and_not_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(SiftuneError, match="hint"):
        Directions.create(tmp_path / "directions.npy", 5, SIZES)
    assert not list(tmp_path.iterdir())
