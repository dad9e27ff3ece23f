"""Losses with and without the prompt against the model's own loss, one row at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from siftune._common.errors import ModelError
from siftune.data.rows import Rendered
from siftune.features.forward.engine import forward_features
from siftune.features.forward.loss import Loss, ResponseAloneLoss
from siftune.features.forward.reader import Reader
from tests import tiny
from tests.training.rows import random_rows

OPENING = (1, 300, 17)


def rows() -> list[Rendered]:
    """Rows of all lengths, one of several turns, and the edges: one response token, a long prompt, no prompt at all."""
    rng = np.random.default_rng(5)

    def row(length: int, *supervised: int) -> Rendered:
        mask = np.zeros(length, dtype=bool)
        mask[list(supervised)] = True
        return Rendered(rng.integers(3, 384, length).astype(np.int32), mask)

    return [*random_rows(7, longest=24), row(9, 8), row(120, 118, 119), row(2, 1), row(6, 1, 2, 3, 4, 5),
            row(12, 3, 4, 7, 8, 11), Rendered(np.array([1, 9, 8, 7], np.int32), np.array([0, 0, 1, 1], bool))]


def own_loss(model, tokens: list[int], scored: list[bool]) -> float:
    """The loss that transformers computes from labels."""
    labels = [token if counts else -100 for token, counts in zip(tokens, scored, strict=True)]
    with torch.no_grad():
        return float(model(input_ids=torch.tensor([tokens]), labels=torch.tensor([labels])).loss)


def alone(row: Rendered, opening: tuple[int, ...] = OPENING) -> tuple[list[int], list[bool]]:
    """The first token, then every supervised one, with the opening of a turn wherever a stretch of them begins."""
    tokens, scored = [int(row.ids[0])], [False]
    for t in range(1, len(row)):
        if row.mask[t]:
            if not row.mask[t - 1]:
                tokens += opening
                scored += [False] * len(opening)
            tokens.append(int(row.ids[t]))
            scored.append(True)
    if opening and tokens[0] == opening[0]:
        tokens, scored = tokens[1:], scored[1:]
    return tokens, scored


def read(model, rendered: list[Rendered], readers: list[Reader], batch_tokens: int) -> list[np.ndarray]:
    return [found["loss"] for found in forward_features(model, rendered, readers, pad_id=0, batch_tokens=batch_tokens)]


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_both_losses_are_the_models_own_whatever_the_batches(architecture: str) -> None:
    model, rendered = tiny.model(architecture), rows()
    whole = [own_loss(model, row.ids.tolist(), row.mask.tolist()) for row in rendered]
    response = [own_loss(model, *alone(row)) for row in rendered]
    assert max(abs(a - b) for a, b in zip(whole, response, strict=True)) > 0.1, "the prompt matters to this model"
    for batch_tokens in (1, 150, 4096):
        found = read(model, rendered, [Loss(), ResponseAloneLoss(OPENING)], batch_tokens)
        assert [values.dtype for values in found] == [np.float32, np.float32]
        np.testing.assert_allclose(found[0], whole, atol=1e-4)
        np.testing.assert_allclose(found[1], response, atol=1e-4)
    backwards = read(model, rendered[::-1], [ResponseAloneLoss(OPENING), Loss()], 150)
    np.testing.assert_allclose(backwards[0][::-1], response, atol=1e-4)
    np.testing.assert_allclose(backwards[1][::-1], whole, atol=1e-4)


def test_each_reader_alone_reads_the_same() -> None:
    model, rendered = tiny.model("llama"), rows()
    for single, together in zip(([Loss()], [ResponseAloneLoss(OPENING)]),
                                read(model, rendered, [Loss(), ResponseAloneLoss(OPENING)], 300), strict=True):
        np.testing.assert_array_equal(read(model, rendered, single, 300)[0], together)


def test_the_same_tokens_are_scored_with_and_without_the_prompt() -> None:
    for row, opening in [(row, opening) for row in rows() for opening in ((), (4,), OPENING)]:
        view = ResponseAloneLoss(opening).view(row)
        assert view.ids[view.mask].tolist() == row.ids[row.mask].tolist()
        assert (view.ids.tolist(), view.mask.tolist()) == alone(row, opening)
        assert view.ids.dtype == np.int32
        assert not view.mask[0]


def test_a_loss_that_is_not_finite_is_refused_rather_than_ranked() -> None:
    model = tiny.model("llama")
    with torch.no_grad():
        model.model.norm.weight.fill_(math.inf)
    with pytest.raises(ModelError, match="not a finite number") as caught:
        read(model, rows(), [Loss()], 4096)
    assert "float32" in str(caught.value)
