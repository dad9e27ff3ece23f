"""The loss of a row is its own: mean over its supervised tokens, whatever stands beside it in the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from siftune._common.errors import DataError, ModelError
from siftune.data.rows import Rendered
from siftune.evaluation.loss import row_losses
from siftune.models.lora import LoraSettings, adapter_parameters, attach_lora
from siftune.models.supervised_logits import mean_loss_per_row, predicting, supervised_logits
from tests import tiny
from tests.training.rows import random_rows
from tests.training.test_sft import loss_of_row


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_row_losses_equal_a_plain_loop_for_every_batch_size_and_order(architecture: str) -> None:
    model, rows = tiny.model(architecture), random_rows(7, longest=24)
    with torch.no_grad():
        expected = np.array([float(loss_of_row(model, row)) for row in rows])
    for batch_tokens in (1, 40, 4096):
        losses = row_losses(model, rows, batch_tokens=batch_tokens)
        assert losses.dtype == np.float64
        np.testing.assert_allclose(losses, expected, atol=1e-5)
    np.testing.assert_allclose(row_losses(model, rows[::-1], batch_tokens=40)[::-1], expected, atol=1e-5)


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_supervised_logits_are_the_models_own_logits_at_the_predicting_positions(architecture: str) -> None:
    model = attach_lora(tiny.model(architecture), LoraSettings(), seed=0)
    ids = torch.arange(36).reshape(3, 12) + 5
    mask = torch.zeros(3, 12, dtype=torch.bool)
    mask[0, 1], mask[0, 11], mask[2, 4:7] = True, True, True
    with torch.no_grad():
        full = model(input_ids=ids).logits
        with supervised_logits(model, mask):
            thin = model(input_ids=ids).logits
        after = model(input_ids=ids).logits
    where = [(0, 0), (0, 10), (2, 3), (2, 4), (2, 5)]
    assert thin.shape == (1, 5, 384)
    for row, (b, t) in zip(thin[0], where, strict=True):
        torch.testing.assert_close(row, full[b, t], atol=1e-6, rtol=1e-6)
    assert [tuple(p) for p in predicting(mask).nonzero().tolist()] == where
    assert torch.equal(after, full)  # the hook is gone


def test_gradients_flow_through_thinned_logits_as_through_full_ones() -> None:
    model, rows = attach_lora(tiny.model("gemma2"), LoraSettings(), seed=0), random_rows(2)
    parameters = list(adapter_parameters(model).values())
    with torch.no_grad():
        for number, parameter in enumerate(parameters):
            parameter.add_(0.01 * (number + 1))
    width = max(len(row) for row in rows)
    ids, mask = torch.zeros(2, width, dtype=torch.long), torch.zeros(2, width, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, :len(row)], mask[i, :len(row)] = torch.tensor(row.ids).long(), torch.tensor(row.mask)
    with supervised_logits(model, mask):
        logits = model(input_ids=ids).logits[0]
    losses = mean_loss_per_row(logits, ids, mask)
    for loss, row in zip(losses, rows, strict=True):
        found = torch.autograd.grad(loss, parameters, retain_graph=True)
        expected = torch.autograd.grad(loss_of_row(model, row), parameters)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_evaluation_turns_dropout_off_and_leaves_the_mode_as_it_was() -> None:
    model, rows = attach_lora(tiny.model("gpt2"), LoraSettings(dropout=0.5), seed=0), random_rows(3)
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter.add_(0.1)
    calm = row_losses(model, rows)
    model.train()
    np.testing.assert_array_equal(row_losses(model, rows), calm)
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_mistakes_are_explained() -> None:
    model = tiny.model("llama")
    silent = Rendered(np.arange(3, 7, dtype=np.int32), np.zeros(4, dtype=bool))
    with pytest.raises(DataError, match=r"row 0 .* no supervised token"):
        row_losses(model, [silent])
    mask = torch.zeros(1, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="the mask is"), supervised_logits(model, mask):
        model(input_ids=torch.zeros(1, 5, dtype=torch.long))
    assert row_losses(model, []).shape == (0,)
    with pytest.raises(ModelError, match="no output embedding"), supervised_logits(model.model, mask):
        pass
