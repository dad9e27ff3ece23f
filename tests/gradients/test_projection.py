"""Projections keep inner products, and depend on seed and parameter name alone."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from siftune.errors import ConfigError
from siftune.gradients.projection import KINDS, CountSketch, Rademacher, projection

SIZES = {"a": 700, "b": 96, "c": 2048, "d": 1, "e": 513}


def project(made, parts: dict[str, torch.Tensor]) -> torch.Tensor:
    rows = len(next(iter(parts.values())))
    out = made.new(rows, "cpu")
    for name, part in parts.items():
        made.add(out, name, part)
    return out


def parts(rows: int, seed: int = 0, sparse: bool = False) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = {name: torch.randn(rows, n, generator=generator) for name, n in SIZES.items()}
    if sparse:  # a few coordinates hold nearly everything, as in Adam directions
        made = {name: part * (torch.rand(part.shape, generator=generator) < 0.01) * 30 for name, part in made.items()}
    return made


def matrix(made) -> dict[str, np.ndarray]:
    """The projection as explicit matrices, by projecting unit vectors one at a time."""
    found = {}
    for name, n in SIZES.items():
        columns = []
        for i in range(n):
            unit = torch.zeros(1, n)
            unit[0, i] = 1
            columns.append(project(made, {name: unit})[0].numpy())
        found[name] = np.stack(columns)  # [n, dim]
    return found


# One CountSketch is right on average only: two large entries in one bucket are an error no bound on the tail allows.
@pytest.mark.parametrize(("kind", "sparse"), [("countsketch", False), ("sparse-jl", False), ("sparse-jl", True),
                                              ("rademacher", False), ("rademacher", True)])
def test_inner_products_are_kept_within_the_johnson_lindenstrauss_bound(kind, sparse):
    rows, dim = 40, 512
    vectors = parts(rows, seed=3, sparse=sparse)
    whole = torch.cat(list(vectors.values()), dim=1).double()
    true = whole @ whole.T
    norms = whole.norm(dim=1)
    errors = []
    for seed in range(3):
        got = project(projection(kind, dim, seed), vectors).double()
        errors.append((got @ got.T - true) / (norms[:, None] * norms[None, :]))
    errors = torch.stack(errors)
    # With k = 3 * 820 pairs, |error| <= sqrt(2 log(k) / dim) * sqrt(2) fails with probability far below 1e-3.
    assert errors.abs().max() < np.sqrt(4 * np.log(2460) / dim)
    # Unbiased with variance at most 2 / dim.
    off_diagonal = errors[:, ~torch.eye(rows, dtype=torch.bool)]
    assert off_diagonal.std() < 1.15 * np.sqrt(1 / dim)
    assert off_diagonal.mean().abs() < 4 * np.sqrt(2 / dim / off_diagonal.numel()) + 0.003


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_bits_do_not_depend_on_the_batch(kind):
    made, vectors = projection(kind, 300, 5), parts(37)
    whole = project(made, vectors)
    for size in (1, 2, 7, 16, 36):
        for start in range(0, 37, size):
            piece = {name: part[start : start + size] for name, part in vectors.items()}
            assert torch.equal(project(made, piece), whole[start : start + size]), size
    order = torch.randperm(37, generator=torch.Generator().manual_seed(1))
    assert torch.equal(project(made, {n: p[order] for n, p in vectors.items()}), whole[order])


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_equals_multiplication_by_its_explicit_matrix(kind):
    made, vectors = projection(kind, 64, 9), parts(3)
    by_name = matrix(made)
    expected = sum(vectors[n].numpy().astype(np.float64) @ by_name[n] for n in SIZES)
    np.testing.assert_allclose(project(made, vectors).numpy(), expected, rtol=1e-4, atol=1e-3)


def test_countsketch_deals_coordinates_evenly_with_random_signs():
    for name, columns in matrix(CountSketch(64, 2)).items():
        assert (np.abs(columns).sum(axis=1) == 1).all(), "one bucket a coordinate, sign +-1"
        load = np.abs(columns).sum(axis=0)
        assert load.max() - load.min() <= 1, name
    signs = matrix(CountSketch(64, 2))["c"].sum(axis=1)
    assert abs(signs.mean()) < 0.1


def test_rademacher_entries_are_plus_or_minus_one_over_root_dim():
    columns = matrix(Rademacher(64, 2))["c"]
    np.testing.assert_allclose(np.abs(columns), 1 / 8, rtol=1e-6)
    assert abs(columns.mean() * 8) < 0.02


@pytest.mark.parametrize(("kind", "digest"), [
    ("countsketch", "d942f711eb13"), ("sparse-jl", "3001ca7d9b36"), ("rademacher", "d050445ced44"),
])
def test_numbers_are_the_same_on_every_machine(kind, digest):
    """A frozen digest: whoever changes the random numbers must raise VERSION and this line together."""
    whole_numbers = {"w": torch.arange(500, dtype=torch.float32)[None].remainder(7) - 3}
    made = projection(kind, 32, 2024)
    got = project(made, whole_numbers)[0].double()
    if kind == "rademacher":
        got = (got * np.sqrt(32)).round()
    assert hashlib.sha256(got.numpy().astype("<i8").tobytes()).hexdigest()[:12] == digest


@settings(max_examples=20)
@given(seed=st.integers(0, 2**40), other=st.integers(0, 2**40))
def test_another_seed_or_name_is_another_projection(seed, other):
    vector = torch.ones(1, 400)
    first = project(projection("countsketch", 64, seed), {"w": vector})
    assert torch.equal(first, project(projection("countsketch", 64, seed), {"w": vector}))
    assert not torch.equal(first, project(projection("countsketch", 64, seed), {"x": vector}))
    if seed != other:
        assert not torch.equal(first, project(projection("countsketch", 64, other), {"w": vector}))


def test_wrong_names_and_dimensions_are_refused():
    with pytest.raises(ConfigError, match="unknown projection 'rademaker'") as caught:
        projection("rademaker", 8, 0)
    assert "did you mean 'rademacher'" in str(caught.value)
    with pytest.raises(ConfigError, match="0 dimensions"):
        projection("countsketch", 0, 0)
