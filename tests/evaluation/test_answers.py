"""Loss, exact match and options are the same whether each prompt is read once or once for each of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from siftune.data.render import Renderer
from siftune.data.rows import Message, Row
from siftune.evaluation import answers
from siftune.evaluation.answers import score_answers
from siftune.evaluation.choices import Choices
from siftune.evaluation.exact_match import exact_match
from siftune.evaluation.likelihood import choice_scores, render_choices
from siftune.evaluation.loss import row_losses
from tests import tiny
from tests.evaluation.test_exact_match import QUESTIONS, taught
from tests.evaluation.test_exact_match import prompt as encoded

OPTIONS = [("Paris", "Rome is the capital"), None, ("(A) 4", "(A) 42", "(B) 4"), ("yes", "yes it is"), None]
ASKED = ["What is the capital of France?", "Sort these words: pear, apple, fig.", "b", "Is ice cold?", "Add 12 and 30."]


def asked() -> list[Row]:
    """Rows with and without options, one of two turns that are both supervised, one with a long answer."""
    said = ["Paris", "apple, fig, pear", "(A) 42", "yes it is", "42 " * 80]
    rows = []
    for i, (question, answer) in enumerate(zip(ASKED, said, strict=True)):
        before = (Message("user", "Sort b, a."), Message("assistant", "a, b")) if i == 1 else ()
        messages = (*before, Message("user", question), Message("assistant", answer))
        rows.append(Row(str(i), "test", f"test.jsonl:{i + 1}", messages, "{}", "", "messages"))
    return rows


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_the_three_are_what_each_is_by_itself_in_any_batch(architecture: str) -> None:
    model, tokenizer = tiny.model(architecture), tiny.tokenizer()
    renderer, rows = Renderer(tokenizer, max_length=512), asked()
    rendered = [renderer.render(list(row.messages), row.tools) for row in rows]
    generated = [renderer.generation_prompt(row.messages, row.tools) for row in rows]
    prompts, references = [p for p, _ in generated], [r for _, r in generated]
    choices = [options and render_choices(row, Choices(options, options.index(row.messages[-1].content)), renderer)
               for row, options in zip(rows, OPTIONS, strict=True)]
    loss = row_losses(model, rendered)
    matches = exact_match(model, tokenizer, prompts, references)
    picked = choice_scores(model, choices)
    for batch_tokens in (1, 200, 4096):
        found = score_answers(model, tokenizer, rendered, prompts, references, choices, batch_tokens=batch_tokens)
        np.testing.assert_allclose(found.loss, loss, atol=2e-5)
        assert found.matches is not None
        assert found.choices is not None
        assert found.matches.outputs == matches.outputs
        assert found.matches.outputs[4] is None, "its reference is too long"
        np.testing.assert_array_equal(found.matches.applicable, matches.applicable)
        np.testing.assert_array_equal(found.choices.applicable, [True, False, True, True, False])
        for mine, theirs in zip(found.choices.log_likelihoods, picked.log_likelihoods, strict=True):
            assert (mine is None) == (theirs is None)
            if mine is not None:
                np.testing.assert_allclose(mine, theirs, atol=2e-4)
    only_loss = score_answers(model, tokenizer, rendered)
    assert only_loss.matches is only_loss.choices is None
    np.testing.assert_allclose(only_loss.loss, loss, atol=2e-5)


def test_answers_of_a_taught_model_come_out_after_prompts_that_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some answers end by themselves, one by its length, while others of the batch go on."""
    def fails(*_: Any, **__: Any) -> Any:
        raise AssertionError("read again")

    monkeypatch.setattr(answers, "_score_alone", fails)
    tokenizer = tiny.tokenizer()
    prompts = [encoded(q) for q in QUESTIONS]
    told = ["five", "paris is it", "Bananas", "fig"]
    rendered = []
    for p, text in zip(prompts, told, strict=True):
        answer = np.array(tokenizer.encode(text), dtype=np.int32)
        mask = np.r_[np.zeros(len(p), dtype=bool), np.ones(len(answer), dtype=bool)]
        rendered.append(answers.Rendered(np.concatenate([p, answer]), mask))
    for batch_tokens in (1, 60, 4096):
        found = score_answers(taught("llama"), tokenizer, rendered, prompts, told, batch_tokens=batch_tokens)
        assert found.matches is not None
        assert found.matches.outputs == list(QUESTIONS.values())
        assert found.matches.correct.tolist() == [True, True, False, True]
    short = score_answers(taught("llama"), tokenizer, rendered, prompts, told, margin=-2)
    expected = exact_match(taught("llama"), tokenizer, prompts, told, margin=-2)
    assert short.matches is not None
    assert short.matches.outputs == expected.outputs


def test_each_prompt_token_is_read_once() -> None:
    model, tokenizer = tiny.model("llama"), tiny.tokenizer()
    renderer, row = Renderer(tokenizer, max_length=512), asked()[0]
    rendered = renderer.render(list(row.messages), row.tools)
    prompt, reference = renderer.generation_prompt(row.messages, row.tools)
    choices = render_choices(row, Choices(("Paris", "Rome"), 0), renderer)
    assert choices is not None
    read: list[int] = []
    handle = model.get_input_embeddings().register_forward_pre_hook(lambda _, args: read.append(args[0].numel()))
    try:
        score_answers(model, tokenizer, [rendered], [prompt], [reference], [choices], margin=0)
    finally:
        handle.remove()
    # Beside the one token by which a model shows whether it keeps keys: the prompt, the first token of the answer and
    # the rest of it one by one, then the three turns.
    assert len(prompt) - 1 in read
    longest = max(len(one) for one in (rendered, *choices.options)) - len(prompt) + 1
    assert sum(read) <= 1 + len(prompt) - 1 + len(tokenizer.encode(reference)) + 3 * longest
