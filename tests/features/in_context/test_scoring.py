"""Certainty with and without an example, against one plain forward pass a pair."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from siftune._common.errors import ModelError
from siftune.data.rows import Rendered
from siftune.features.in_context.scoring import Scorer, certainty, most_tokens
from siftune.models.loading import LoadedModel
from tests import tiny
from tests.features.in_context.fitted import fitted


def loaded(model) -> LoadedModel:
    return LoadedModel(model.requires_grad_(False), tiny.tokenizer(), "tiny", "cpu", "float32", "")


def made_rows(n: int, seed: int = 0, longest: int = 40) -> list[Rendered]:
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        length = int(rng.integers(4, longest))
        mask = np.zeros(length, bool)
        mask[1 + int(rng.integers(1, length - 1)):] = True
        mask[-2] = length > 20  # a gap, as between two turns
        mask[-1] = True
        rows.append(Rendered(rng.integers(3, 384, length).astype(np.int32), mask))
    return rows


def oracle(model, example: np.ndarray, row: Rendered) -> tuple[float, float]:
    """(d, mean log p) from the whole text in one pass, token by token."""
    ids = [*example.tolist(), *row.ids.tolist()]
    with torch.no_grad():
        p = torch.softmax(model(input_ids=torch.tensor([ids])).logits[0].double(), -1)
    squares, logs = [], []
    for t in range(len(row)):
        if row.mask[t]:
            gold = float(p[len(example) + t - 1, ids[len(example) + t]])
            squares.append((1 - gold) ** 2)
            logs.append(np.log(gold))
    return float(np.sqrt(sum(squares) / len(squares))), sum(logs) / len(logs)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_kept_keys_and_values_give_what_the_whole_text_gives(architecture):
    """Examples are longer than the sliding windows (16) of those architectures that have one."""
    rows, example = made_rows(6), np.random.default_rng(9).integers(3, 384, 37).astype(np.int32)
    model = fitted(architecture, rows)
    assert getattr(model.config, "sliding_window", None) in (None, 16)
    wanted = np.array([oracle(model, example, row) for row in rows])
    alone = np.array([oracle(model, example[:0], row) for row in rows])
    assert np.abs(wanted - alone).max(axis=0).min() > 0.02, "the example matters to either form"
    for batch_tokens in (1, 60, 4096):
        for reuse in (True, False):
            scorer = Scorer(loaded(model), batch_tokens=batch_tokens, limit=512, reuse=reuse)
            found = scorer.after(example, rows)
            np.testing.assert_allclose(np.stack([found.distance, found.logprob], 1), wanted, atol=1e-4)
        by_itself, _ = scorer.alone(rows)
        np.testing.assert_allclose(np.stack([by_itself.distance, by_itself.logprob], 1), alone, atol=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "gpt2"])
def test_an_example_is_cut_at_its_end_and_a_row_without_room_is_not_scored(architecture):
    rows, example = made_rows(8, seed=1, longest=50), np.random.default_rng(3).integers(3, 384, 30).astype(np.int32)
    model = fitted(architecture, rows)
    limit = 34
    lengths = [len(row) for row in rows]
    assert {np.sign(limit - length) for length in lengths} == {-1, 1}, "some fit, some do not"
    assert sum(0 < limit - length < len(example) for length in lengths) >= 2
    for reuse in (True, False):
        found = Scorer(loaded(model), batch_tokens=100, limit=limit, reuse=reuse).after(example, rows)
        for i, row in enumerate(rows):
            shown = limit - len(row)
            if shown <= 0:
                assert np.isnan(found.distance[i])
                assert np.isnan(found.logprob[i])
            else:
                np.testing.assert_allclose((found.distance[i], found.logprob[i]), oracle(model, example[:shown], row),
                                           atol=1e-4)
    by_itself, _ = Scorer(loaded(model), batch_tokens=100, limit=limit).alone(rows)
    assert np.isnan(by_itself.distance).tolist() == [length > limit for length in lengths]


def test_a_model_that_keeps_a_state_instead_is_run_with_the_whole_example():
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(
        "mamba", vocab_size=384, hidden_size=16, num_hidden_layers=2, state_size=4)).eval()
    rows, example = made_rows(4, seed=2), np.arange(3, 20, dtype=np.int32)
    scorer = Scorer(loaded(model), batch_tokens=100, limit=512)
    assert not scorer.reuse
    found = scorer.after(example, rows)
    np.testing.assert_allclose(np.stack([found.distance, found.logprob], 1), [oracle(model, example, r) for r in rows],
                               atol=1e-4)


def test_vectors_are_the_position_weighted_mean_of_the_last_hidden_states():
    model, rows = tiny.model("qwen2"), made_rows(5, seed=4)
    _, vectors = Scorer(loaded(model), batch_tokens=50, limit=512).alone(rows)
    for vector, row in zip(vectors, rows, strict=True):
        with torch.no_grad():
            hidden = model.model(input_ids=torch.from_numpy(row.ids.astype(np.int64))[None]).last_hidden_state[0]
        mean = sum((t + 1) * hidden[t].double() for t in range(len(row))) / sum(range(1, len(row) + 1))
        np.testing.assert_allclose(vector, (mean / mean.norm()).numpy(), atol=1e-5)


def test_certainty_has_its_ends():
    """All probability on the gold token: distance 0, log-probability 0; none of it: distance 1."""
    ids, mask = torch.tensor([[0, 1, 2], [0, 1, 2]]), torch.tensor([[False, True, True], [False, False, True]])
    logits = torch.full((3, 4), -100.0)
    logits[0, 1] = logits[1, 2] = 100.0  # row 0 is certain
    logits[2, 3] = 100.0  # row 1 is certain of another token
    found = certainty(logits, ids, mask)
    np.testing.assert_allclose(found.distance, [0, 1], atol=1e-6)
    np.testing.assert_allclose(found.logprob, [0, -200], atol=1e-4)
    logits[0, 0] = float("nan")
    with pytest.raises(ModelError, match="not a number"):
        certainty(logits, ids, mask)


def test_the_limit_is_twice_the_longest_row_within_what_the_model_takes():
    assert most_tokens(tiny.model("gpt2"), 2048) == 512
    assert most_tokens(tiny.model("llama"), 100) == 200
