"""Greedy answers of a model that was taught them, compared with what they should be."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from siftune.evaluation.exact_match import exact_match, normalise, stop_tokens
from siftune.models.lora import LoraSettings, attach_lora
from tests import tiny

QUESTIONS = {"2+3=": "five", "capital of France:": "Paris  is\nit", "b:": "Banana", "long question about pears:": "fig"}


def prompt(question: str) -> np.ndarray:
    return np.array(tiny.tokenizer().encode(question), dtype=np.int32)


@cache
def taught(architecture: str) -> Any:
    """A tiny model overfitted to the four answers, each followed by the end of turn."""
    model, tokenizer = tiny.model(architecture), tiny.tokenizer()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    pairs = [(prompt(q).tolist(), [*tokenizer.encode(a), tokenizer.eos_token_id]) for q, a in QUESTIONS.items()]
    width = max(len(p + a) for p, a in pairs)
    padding = [[0] * (width - len(p + a)) for p, a in pairs]
    ids = torch.tensor([p + a + pad for (p, a), pad in zip(pairs, padding, strict=True)])
    attention = torch.tensor([[1] * len(p + a) + pad for (p, a), pad in zip(pairs, padding, strict=True)])
    labels = torch.tensor([[-100] * len(p) + a + [-100] * len(pad) for (p, a), pad in zip(pairs, padding, strict=True)])
    for _ in range(60):
        optimizer.zero_grad()
        model(input_ids=ids, attention_mask=attention, labels=labels).loss.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_a_model_that_was_taught_the_answers_gives_them_in_any_batch(architecture: str) -> None:
    model, tokenizer = taught(architecture), tiny.tokenizer()
    prompts = [prompt(q) for q in QUESTIONS]
    references = ["FIVE ", " paris is it", "Bananas", "fig"]
    answers = [exact_match(model, tokenizer, prompts, references, batch_tokens=n) for n in (1, 60, 4096)]
    for found in answers:
        assert found.outputs == list(QUESTIONS.values())
        assert found.correct.tolist() == [True, True, False, True]
        assert found.applicable.all()
    assert answers[0].rate == 0.75


def test_long_and_empty_references_are_counted_and_not_generated() -> None:
    found = exact_match(taught("llama"), tiny.tokenizer(), [prompt(q) for q in QUESTIONS],
                        ["five", "a very long reference " * 5, "", "fig"], max_reference_tokens=10)
    assert found.applicable.tolist() == [True, False, False, True]
    assert found.skipped == 2
    assert [output is None for output in found.outputs] == [False, True, True, False]
    assert found.rate == 1.0
    assert exact_match(taught("llama"), tiny.tokenizer(), [prompt("b:")], [""]).rate is None


def test_an_answer_that_does_not_stop_is_cut_at_its_own_length_whatever_its_batch() -> None:
    model, tokenizer = tiny.model("llama", seed=3), tiny.tokenizer()  # untaught: it babbles
    prompts, references = [prompt("2+3="), prompt("2+3=")], ["five", "five six seven eight nine ten"]
    together = exact_match(model, tokenizer, prompts, references, margin=0)
    alone = exact_match(model, tokenizer, prompts[:1], references[:1], margin=0)
    assert together.outputs[0] == alone.outputs[0]
    assert len(together.outputs[0] or "") < len(together.outputs[1] or "")


@pytest.mark.parametrize("adapted", [False, True])
def test_the_models_own_sampling_and_penalties_are_ignored_and_stay(adapted: bool) -> None:
    base = copy.deepcopy(taught("llama"))
    base.generation_config = type(base.generation_config)(
        do_sample=True, temperature=50.0, repetition_penalty=9.0, eos_token_id=2)
    own = base.generation_config
    model = attach_lora(base, LoraSettings(rank=2), seed=0) if adapted else base
    found = exact_match(model, tiny.tokenizer(), [prompt("2+3=")], ["five"])
    assert found.outputs == ["five"]
    assert model.generation_config is base.generation_config is own
    assert own.repetition_penalty == 9.0


def test_what_is_the_same_answer() -> None:
    assert normalise("  The  CAPITAL\n is Straße ") == normalise("the capital is STRASSE")
    assert normalise("4.0") != normalise("4")


def test_answers_end_at_the_end_of_sequence_and_every_known_end_of_turn() -> None:
    tokenizer = tiny.tokenizer()
    assert stop_tokens(taught("llama"), tokenizer) == sorted(
        tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"]))


def test_numbers_of_prompts_and_references_must_agree() -> None:
    with pytest.raises(ValueError, match="1 prompts but 0 references"):
        exact_match(taught("llama"), tiny.tokenizer(), [prompt("b:")], [])
    with pytest.raises(ValueError, match="a prompt is empty"):
        exact_match(taught("llama"), tiny.tokenizer(), [prompt("b:")[:0]], ["x"])
