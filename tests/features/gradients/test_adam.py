"""The Adam direction is what ``torch.optim.AdamW`` would do next from the same state."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from siftune._common.errors import ModelError
from siftune.features.gradients.adam import AdamDirection


def trained(steps: int, seed: int, betas, eps):
    """A parameter and the AdamW that trained it for some steps."""
    generator = torch.Generator().manual_seed(seed)
    parameter = torch.nn.Parameter(torch.randn(3, 5, generator=generator))
    optimizer = torch.optim.AdamW([parameter], lr=0.01, betas=betas, eps=eps, weight_decay=0.0)
    for _ in range(steps):
        parameter.grad = torch.randn(3, 5, generator=generator) * 10 ** torch.randint(-4, 2, (1,), generator=generator)
        optimizer.step()
    return parameter, optimizer, generator


@given(steps=st.integers(1, 30), seed=st.integers(0, 10_000), b1=st.sampled_from([0.0, 0.9, 0.5]),
       b2=st.sampled_from([0.999, 0.95]), eps=st.sampled_from([1e-8, 1e-6, 1e-3]))
def test_direction_equals_the_next_adamw_step_divided_by_minus_the_rate(steps, seed, b1, b2, eps):
    parameter, optimizer, generator = trained(steps, seed, (b1, b2), eps)
    state = optimizer.state[parameter]
    direction = AdamDirection({"p": state["exp_avg"].clone()}, {"p": state["exp_avg_sq"].clone()},
                              int(state["step"]), (b1, b2), eps)
    gradients = torch.randn(4, 15, generator=generator)
    for row in gradients:
        expected, fresh, _ = trained(steps, seed, (b1, b2), eps)
        before = expected.detach().double().clone()
        fresh.param_groups[0]["lr"] = 0.5  # large beside the rounding of the parameter itself
        expected.grad = row.reshape(3, 5).clone()
        fresh.step()
        moved = (before - expected.detach().double()) / 0.5
        got = direction("p", row[None])[0].reshape(3, 5).double()
        torch.testing.assert_close(got, moved, rtol=1e-4, atol=1e-5)


def test_less_code_form_has_no_bias_correction_and_eps_inside_the_root():
    m, v, g = torch.tensor([0.1, -0.2]), torch.tensor([1e-6, 4e-10]), torch.tensor([[1e-3, 2e-5]])
    got = AdamDirection({"p": m}, {"p": v}, 7, form="less-code")("p", g)
    expected = (0.9 * m + 0.1 * g) / torch.sqrt(0.999 * v + 0.001 * g**2 + 1e-8)
    torch.testing.assert_close(got, expected)


@given(steps=st.integers(1, 30), seed=st.integers(0, 10_000), b2=st.sampled_from([0.999, 0.95]))
def test_without_momentum_it_is_the_gradient_over_the_root_of_the_corrected_second_moment(steps, seed, b2):
    parameter, optimizer, generator = trained(steps, seed, (0.9, b2), 1e-8)
    state = optimizer.state[parameter]
    v = state["exp_avg_sq"].double().flatten().tolist()
    g = torch.randn(1, 15, generator=generator)
    directions = [AdamDirection({"p": m}, {"p": state["exp_avg_sq"]}, steps, (0.9, b2), 1e-8, "no-momentum")("p", g)
                  for m in (state["exp_avg"], torch.zeros(3, 5))]
    expected = [x / ((part / (1 - b2**steps)) ** 0.5 + 1e-8) for x, part in zip(g[0].tolist(), v, strict=True)]
    torch.testing.assert_close(directions[0][0].double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-5,
                               atol=0)
    assert torch.equal(*directions), "the first moment plays no part"


@pytest.mark.parametrize("form", ["paper", "less-code", "no-momentum"])
def test_gradients_are_not_changed_and_rows_are_independent(form):
    m, v = torch.randn(6), torch.rand(6)
    direction = AdamDirection({"p": m}, {"p": v}, 3, form=form)
    g = torch.randn(5, 6)
    kept = g.clone()
    whole = direction("p", g)
    assert torch.equal(g, kept)
    for i in range(5):
        assert torch.equal(direction("p", g[i : i + 1])[0], whole[i])


def test_moments_are_found_by_name_or_refused():
    direction = AdamDirection({"a": torch.zeros(2)}, {"a": torch.ones(2)}, 1)
    with pytest.raises(ModelError, match="no Adam moments for 'b'"):
        direction("b", torch.ones(1, 2))
