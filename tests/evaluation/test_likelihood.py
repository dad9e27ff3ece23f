"""The likelihood of an option is that of its turn after the prompt, whatever shares its batch or its prompt."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from siftune.data.render import Renderer
from siftune.data.rows import Message, Row
from siftune.evaluation import likelihood
from siftune.evaluation.choices import Choices, find_choices
from siftune.evaluation.likelihood import RenderedChoices, choice_scores, render_choices
from siftune.models.lora import LoraSettings, adapter_parameters, attach_lora
from tests import tiny

PROMPTS = ["Which one?", "What is the capital of France? Sort these words: pear, apple, fig.", "b", "Add 12 and 30."]
OPTIONS = [("Paris", "Rome is the capital"), ("pear", "apple", "fig"), ("(A) 4", "(A) 42", "(B) 4", "(C) né"),
           ("yes", "yes it is")]


def row(prompt: str, answer: str, before: tuple[Message, ...] = ()) -> Row:
    messages = (*before, Message("user", prompt), Message("assistant", answer))
    return Row("1", "test", "test.jsonl:1", messages, json.dumps({}), "", "messages")


def renderer(max_length: int = 256) -> Renderer:
    return Renderer(tiny.tokenizer(), max_length=max_length)


def asked() -> list[RenderedChoices | None]:
    found = [render_choices(row(p, o[0]), Choices(o, 0), renderer()) for p, o in zip(PROMPTS, OPTIONS, strict=True)]
    return [*found[:2], None, *found[2:]]


def plain(model: Any, one: RenderedChoices) -> list[float]:
    """Option by option, token by token."""
    values = []
    for option in one.options:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor(option.ids).long()[None]).logits[0].double()
        told = torch.log_softmax(logits, dim=-1)
        values.append(sum(float(told[t - 1, option.ids[t]]) for t in np.flatnonzero(option.mask)))
    return values


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_log_likelihoods_equal_a_plain_loop_in_any_batch(architecture: str) -> None:
    model = attach_lora(tiny.model(architecture), LoraSettings(), seed=0)
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter.add_(0.01)
    rows = asked()
    expected = [None if one is None else plain(model, one) for one in rows]
    for batch_tokens in (1, 150, 4096):
        found = choice_scores(model, rows, batch_tokens=batch_tokens)
        assert found.applicable.tolist() == [True, True, False, True, True]
        for one, mine, theirs in zip(rows, found.log_likelihoods, expected, strict=True):
            if one is None or mine is None or theirs is None:
                assert one is mine is theirs is None
            else:
                np.testing.assert_allclose(mine, theirs, atol=2e-4)


def test_the_prompt_is_read_once_where_every_layer_attends_to_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise AssertionError("read in full")

    monkeypatch.setattr(likelihood, "_in_full", fails)
    assert choice_scores(tiny.model("llama"), asked()).applicable.sum() == 4
    with pytest.raises(AssertionError, match="read in full"):
        choice_scores(tiny.model("gemma2"), asked())  # a window slides over every second layer


def test_the_winner_has_the_highest_sum_or_the_highest_sum_by_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: three rows of two options with log-likelihoods -4 and -6; the first text has 4 bytes, the second 8."""
    one = render_choices(row("Which?", "näh"), Choices(("näh", "eightish"), 0), renderer())
    assert one is not None
    assert one.sizes == (4, 8), "bytes, not characters"
    monkeypatch.setattr(likelihood, "_after_prompts", lambda *_: np.array([-4.0, -6.0] * 2 + [-3.0, -6.0]))
    rows = [one, replace(one, answer=1), replace(one, answer=1)]
    found = choice_scores(tiny.model("llama"), rows)
    assert found.acc.tolist() == [True, False, False]  # -4 > -6; -3 > -6
    assert found.acc_norm.tolist() == [False, True, False]  # -4/4 < -6/8; -3/4 = -6/8: the first of equal ones

    monkeypatch.setattr(likelihood, "_after_prompts", lambda *_: np.array([-4.0, -4.0] * 3))
    assert choice_scores(tiny.model("llama"), rows).acc.tolist() == [True, False, False]


def test_accuracy_is_the_harnesss_own_of_the_same_log_likelihoods(tmp_path: Any) -> None:
    pytest.importorskip("lm_eval")
    from siftune.evaluation.harness import _loaded

    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps({"prompt": p, "choices": list(o), "answer": 0}) + "\n"
                            for p, o in zip(PROMPTS, OPTIONS, strict=True)))
    [task] = _loaded(str(path), False).values()
    rows = [one for one in asked() if one is not None]
    found = choice_scores(tiny.model("llama"), rows)
    for i, (doc, mine) in enumerate(zip(task.eval_docs, found.log_likelihoods, strict=True)):
        assert mine is not None
        told = task.process_results(doc, [(float(value), False) for value in mine])
        assert told["acc"] == found.acc[i]
        # Of ASCII text characters are bytes; newer harnesses tell both.
        assert told.get("acc_bytes", told["acc_norm"]) == found.acc_norm[i]


def test_a_model_that_was_taught_the_answers_picks_them() -> None:
    tokenizer, model = tiny.tokenizer(), tiny.model("llama")
    rows = [row("Is ice cold? yes or no", "yes"), row("Is fire cold? yes or no", "no")]
    found = [render_choices(r, c, Renderer(tokenizer, max_length=64))
             for r, c in zip(rows, find_choices(rows), strict=True) if c]
    before = choice_scores(model, found)
    assert before.acc.sum() < 2
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(30):
        for one in found:
            assert one is not None
            right = one.options[one.answer]
            ids = torch.tensor(right.ids).long()[None]
            optimizer.zero_grad()
            model(input_ids=ids, labels=torch.where(torch.tensor(right.mask)[None], ids, -100)).loss.backward()
            optimizer.step()
    after = choice_scores(model.eval(), found)
    assert after.acc.all()
    assert after.acc_norm.all()


def test_only_the_last_turn_is_scored() -> None:
    before = (Message("user", "Add 12 and 30."), Message("assistant", "42"))
    one = render_choices(row("Which?", "a", before), Choices(("a", "b"), 0), renderer())
    assert one is not None
    tokenizer = tiny.tokenizer()
    assert [str(tokenizer.decode(o.ids[o.mask])).strip() for o in one.options] == ["a<|im_end|>", "b<|im_end|>"]


def test_options_that_do_not_fit_are_none() -> None:
    assert render_choices(row("Which?", "a"), Choices(("a", "long " * 80), 0), renderer(64)) is None
    assert render_choices(row("word " * 80, "a"), Choices(("a", "b"), 0), renderer(64)) is None
    assert render_choices(row("Which?", "a"), Choices(("a", "b"), 0), renderer(64)) is not None
