"""Projections keep inner products, and depend on seed and parameter name alone."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from siftune._common.errors import ConfigError
from siftune.features.gradients.engine import LayerGradient
from siftune.features.gradients.projections import KINDS, SRHT, CountSketch, GraSS, Rademacher, SparseJL, projection
from siftune.features.gradients.projections.srht import hadamard

ELEMENTWISE = sorted(kind for kind in KINDS if not KINDS[kind].factored)
FACTORED = sorted(kind for kind in KINDS if KINDS[kind].factored)
SIZES = {"a": 700, "b": 96, "c": 2048, "d": 1, "e": 513}


def project(made, parts: dict[str, torch.Tensor]) -> torch.Tensor:
    rows = len(next(iter(parts.values())))
    sketch = made.new(rows, "cpu")
    for name, part in parts.items():
        made.add(sketch, LayerGradient.of(name, part))
    return made.read(sketch)


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
                                              ("rademacher", False), ("rademacher", True),
                                              ("srht", False), ("srht", True)])
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


@pytest.mark.parametrize("kind", ELEMENTWISE)
def test_bits_do_not_depend_on_the_batch(kind):
    made, vectors = projection(kind, 300, 5), parts(37)
    whole = project(made, vectors)
    for size in (1, 2, 7, 16, 36):
        for start in range(0, 37, size):
            piece = {name: part[start : start + size] for name, part in vectors.items()}
            assert torch.equal(project(made, piece), whole[start : start + size]), size
    order = torch.randperm(37, generator=torch.Generator().manual_seed(1))
    assert torch.equal(project(made, {n: p[order] for n, p in vectors.items()}), whole[order])


@pytest.mark.parametrize("kind", ELEMENTWISE)
def test_equals_multiplication_by_its_explicit_matrix(kind):
    made, vectors = projection(kind, 64, 9), parts(3)
    by_name = matrix(made)
    expected = sum(vectors[n].numpy().astype(np.float64) @ by_name[n] for n in SIZES)
    np.testing.assert_allclose(project(made, vectors).numpy(), expected, rtol=1e-4, atol=1e-3)


def test_sparse_projections_deal_a_round_to_all_buckets_with_random_signs():
    made = SparseJL(64, 2)
    for name, columns in matrix(made).items():
        for copy in range(4):
            part = columns[:, 16 * copy : 16 * (copy + 1)]
            assert (np.abs(part).sum(axis=1) == 0.5).all(), "one bucket a coordinate and copy, sign +-1, averaged"
            for start in range(0, len(part) - 15, 16):
                load = np.abs(part[start : start + 16]).sum(axis=0)
                assert (load == 0.5).all(), f"{name}: neighbouring coordinates do not meet"
    signs = matrix(CountSketch(64, 2))["c"].sum(axis=1)
    assert abs(signs.mean()) < 0.1


def test_two_coordinates_meet_as_often_as_chance_has_it():
    """The variance bound rests on this: any two coordinates of different rounds share a bucket with P = 1 / width."""
    width, trials, met = 16, 4000, np.zeros(3)
    pairs = [(0, 16), (3, 35), (5, 5 + 64)]
    for seed in range(trials):
        made = CountSketch(width, seed)
        unit = torch.zeros(6, 80)
        for k, (i, j) in enumerate(pairs):
            unit[2 * k, i] = unit[2 * k + 1, j] = 1
        sketch = project(made, {"w": unit}).abs()
        met += [float(sketch[2 * k] @ sketch[2 * k + 1]) for k in range(3)]
    spread = np.sqrt(trials / width)
    assert (np.abs(met - trials / width) < 4 * spread).all(), met / trials


def test_gathers_on_an_accelerator_give_the_sums_of_the_compiled_loop():
    for made in (SparseJL(300, 5), CountSketch(301, 5), SparseJL(3, 1)):
        vectors = parts(5, sparse=True)
        sums = torch.zeros(5, made.dim)
        for name, part in vectors.items():
            made._gather(sums, name, part)
        torch.testing.assert_close(sums / np.sqrt(made.copies), project(made, vectors), rtol=1e-5, atol=1e-4)


def test_the_hadamard_transform_is_orthonormal_and_equals_its_definition():
    for size in (1, 2, 64, 256, 1024):
        x = torch.randn(size, generator=torch.Generator().manual_seed(size))
        definition = [sum((-1) ** bin(i & j).count("1") * float(x[j]) for j in range(size)) / size**0.5
                      for i in range(0, size, max(1, size // 8))]
        np.testing.assert_allclose(hadamard(x)[:: max(1, size // 8)], definition, atol=1e-4)
        assert float(hadamard(x).norm()) == pytest.approx(float(x.norm()), rel=1e-5)


def test_srht_of_a_parameter_below_the_dimension_is_an_isometry():
    vector = torch.randn(2, 100, generator=torch.Generator().manual_seed(0))
    got = project(SRHT(512, 3), {"w": vector})
    torch.testing.assert_close(got @ got.T, vector @ vector.T, rtol=1e-4, atol=1e-4)


def test_masks_keep_an_eighth_of_the_coordinates_and_are_unbiased():
    columns = matrix(GraSS(64, 4))["c"]
    assert (np.abs(columns).sum(axis=1) > 0).sum() == SIZES["c"] // 8
    x = torch.randn(2, 400, generator=torch.Generator().manual_seed(1))
    found = [project(GraSS(256, seed), {"w": x}) for seed in range(400)]
    products = torch.stack([f[0] @ f[1] for f in found])
    error = products.mean() - x[0] @ x[1]
    assert abs(float(error)) < 4 * float(products.std()) / 20


@pytest.mark.parametrize("kind", FACTORED)
def test_factored_projections_equal_their_matrix_on_the_whole_gradient(kind):
    """Linear in the gradient G = left^T right, though they never form it."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(3, 7, 60, generator=generator), torch.randn(3, 7, 52, generator=generator)
    made = projection(kind, 128, 3)

    def through(left, right):
        sketch = made.new(len(left), "cpu")
        made.add(sketch, LayerGradient("w", left, right))
        return made.read(sketch).double()

    units = [through(torch.eye(60)[i][None, None], torch.eye(52)[j][None, None])[0]
             for i in range(60) for j in range(52)]
    whole = torch.bmm(left.transpose(1, 2), right).flatten(1).double()
    torch.testing.assert_close(through(left, right), whole @ torch.stack(units), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", FACTORED)
def test_factored_projections_are_unbiased(kind):
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 5, 96, generator=generator), torch.randn(2, 5, 80, generator=generator)
    left[1], right[1] = left[0] + 0.5 * left[1], right[0] + 0.5 * right[1]
    whole = torch.bmm(left.transpose(1, 2), right).flatten(1)
    products = []
    for seed in range(300):
        made = projection(kind, 512, seed)
        sketch = made.new(2, "cpu")
        made.add(sketch, LayerGradient("w", left, right))
        got = made.read(sketch)
        products.append(float(got[0] @ got[1]))
    error = np.mean(products) - float(whole[0] @ whole[1])
    assert abs(error) < 4 * np.std(products) / np.sqrt(300)


def test_rademacher_entries_are_plus_or_minus_one_over_root_dim():
    columns = matrix(Rademacher(64, 2))["c"]
    np.testing.assert_allclose(np.abs(columns), 1 / 8, rtol=1e-6)
    assert abs(columns.mean() * 8) < 0.02


@pytest.mark.parametrize(("kind", "digest"), [
    ("countsketch", "5ed4df81a428"), ("sparse-jl", "b67ed744c765"), ("rademacher", "d050445ced44"),
    ("srht", "22e2bc0a2e5c"), ("grass", "d2bbbfc61b39"),
])
def test_numbers_are_the_same_on_every_machine(kind, digest):
    """A frozen digest: whoever changes the random numbers must raise VERSION and this line together."""
    whole_numbers = {"w": torch.arange(500, dtype=torch.float32)[None].remainder(7) - 3}
    made = projection(kind, 32, 2024)
    got = project(made, whole_numbers)[0].double()
    if kind == "rademacher":
        got = (got * np.sqrt(32)).round()
    elif kind != "countsketch":
        got = (got * 1000).round()
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
