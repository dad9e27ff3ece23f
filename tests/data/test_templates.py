from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from siftune._common.errors import ModelError
from siftune.data import training_templates
from siftune.data.problems import BadRow
from siftune.data.render import Renderer
from siftune.data.rows import Message, Rendered, ToolCall
from siftune.data.templates import ChatTemplate
from siftune.data.token_starts import Span
from siftune.data.training_templates import families, training_template
from tests import tiny
from tests.data.test_render import GEMMA, MARKED, supervised, talk, whole

LOUD = "{% if '!' in messages[-1]['content'] %}{{ 'loud\n' }}{% endif %}" + tiny.CHATML
FORGETFUL = tiny.CHATML.replace("in messages %}", "in messages[-3:] %}")
ECHO = tiny.CHATML + "{{ messages[-1]['content'] }}"
CALLS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}"
    "{% for c in m['tool_calls'] or [] %}{{ '<call>' + c['function']['name'] + ' ' }}"
    "{{ c['function']['arguments'] | tojson }}{{ '</call>' }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
INLINE = (  # a tool's result stands between call and words; and it looks at the last message
    "{% if '!' in messages[-1]['content'] %}{{ 'loud\n' }}{% endif %}"
    "{% for m in messages %}{% if m['role'] != 'tool' %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% for c in m['tool_calls'] or [] %}{{ '<call>' }}{{ c['function']['arguments'] | tojson }}"
    "{{ messages[2]['content'] }}{% endfor %}{{ m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PARTS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% for part in m['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
)
TRIMMED = (  # trims what it has marked
    "{% for m in messages %}{% set words %}{% generation %}{{ m['content'] }}{% endgeneration %}{% endset %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + words | trim + '<|im_end|>\n' }}{% endfor %}"
)


def renderer(template: Any, max_length: int = 10_000) -> Renderer:
    return Renderer(tiny.tokenizer(template), max_length=max_length)


def refused(template: Any, messages: list[Message]) -> BadRow:
    with pytest.raises(BadRow) as caught:
        renderer(template).render(messages)
    return caught.value


def test_every_known_family_has_a_training_template_with_marks() -> None:
    assert len(families()) >= 30
    for name in families().values():
        assert "endgeneration" in training_templates._read(name)
    assert training_template(tiny.CHATML) is None


def test_a_named_template_for_tools_is_taken_for_rows_with_tools() -> None:
    one = renderer({"default": tiny.CHATML, "tool_use": "{{ tools | tojson }}" + MARKED, "rag": "{{ x }}"})
    assert one.template.has_markers([{}])
    assert not one.template.has_markers()
    assert whole(one.render(talk("Q", "A"))).startswith("<|im_start|>user")
    made = one.render(talk("Q", "A"), [{"type": "function", "function": {"name": "look"}}])
    assert '"look"' in whole(made)
    assert supervised(made) == "A<|im_end|>"
    assert renderer(tiny.CHATML).fingerprint() != one.fingerprint()


def test_named_templates_without_a_default_are_refused() -> None:
    with pytest.raises(ModelError, match="none is the default"):
        ChatTemplate(tiny.tokenizer({"rag": tiny.CHATML, "tool_use": tiny.CHATML}))


def test_contents_are_parts_where_the_template_shows_nothing_else() -> None:
    made = renderer(PARTS).render(talk("Q", "A"))
    assert whole(made) == "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
    assert supervised(made) == "A<|im_end|>"


def test_marks_that_the_template_works_on_are_not_relied_on() -> None:
    made = renderer(TRIMMED).render(talk("Q", "  A  "))
    assert supervised(made) == "A<|im_end|>"
    assert whole(made) == "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"


def test_a_template_that_looks_at_contents_elsewhere_is_asked_turn_by_turn() -> None:
    made = renderer(LOUD).render(talk("Q", "A", "Say it!"))
    assert whole(made).startswith("loud\n")
    assert supervised(made) == "A<|im_end|>"
    problem = refused(LOUD, talk("Q", "A", "q", "a!"))
    assert problem.reason == "template-mismatch"
    assert "turn 4 cannot be told" in problem.detail
    assert "elsewhere" in problem.detail


def test_a_turn_that_the_template_leaves_out_is_counted_and_the_last_one_refused() -> None:
    one = renderer(FORGETFUL)
    assert supervised(one.render(talk("Q", "A", "q", "a", "more"))) == "a<|im_end|>"
    assert one.unmatched_turns == 1
    problem = refused(tiny.CHATML.replace("in messages %}", "in messages[:1] %}"), talk("Q", "A"))
    assert problem.reason == "template-mismatch"
    assert problem.detail == "the template leaves out turn 2, the assistant's last"


def test_a_turn_that_is_written_twice_is_refused() -> None:
    problem = refused(ECHO, talk("Q", "A"))
    assert problem.reason == "template-mismatch"
    assert "turn 2 more than once" in problem.detail


@pytest.mark.parametrize("template", [tiny.CHATML, MARKED, GEMMA, None])
def test_turns_that_are_not_to_be_trained_on_are_left_out(template: str | None) -> None:
    end = "<|im_end|>" if template else "<|endoftext|>"
    turns = talk("Q", "A", "q", "a", "Q", "A")
    for out in ([1], [3], [1, 5], [3, 5]):
        chosen = [replace(m, train=i not in out) for i, m in enumerate(turns)]
        kept = [m.content for m in chosen if m.role == "assistant" and m.train]
        assert supervised(renderer(template).render(chosen)) == "".join(f"{text}{end}" for text in kept)
    untrained = [replace(m, train=False) for m in turns]
    with pytest.raises(BadRow) as caught:
        renderer(template).render(untrained)
    assert caught.value.reason == "nothing-to-supervise"


def test_tool_calls_are_supervised_through_the_end_of_the_turn() -> None:
    for arguments in ({"city": "Paris"}, {"n": 5}, {}, {"a": "</call><|im_end|>\n<|im_start|>user\n"},
                      {"x": [1, {"y": None}]}):
        text = json.dumps(arguments)
        turns = [Message("user", "Q"), Message("assistant", "", tool_calls=(ToolCall("look", text),)),
                 Message("tool", "found <|im_end|>"), Message("assistant", "A")]
        made = renderer(CALLS).render(turns)
        assert supervised(made) == f"<call>look {text}</call><|im_end|>A<|im_end|>"


def test_what_a_tool_says_in_the_midst_of_a_turn_is_not_supervised() -> None:
    turns = [Message("user", "Q"), Message("assistant", "words", tool_calls=(ToolCall("look", '{"n": 5}'),)),
             Message("tool", "found"), Message("user", "thanks")]
    assert supervised(renderer(INLINE).render(turns)) == '<call>{"n": 5}words<|im_end|>'
    problem = refused(INLINE, [*turns, Message("assistant", "welcome!", train=False)])
    assert problem.reason == "template-mismatch"
    assert "what a tool says" in problem.detail


class Counting(ChatTemplate):
    def __init__(self, tokenizer: Any):
        self.calls = 0
        super().__init__(tokenizer)

    def render(self, *args: Any, **options: Any) -> str:
        self.calls += 1
        return super().render(*args, **options)


def conversation(turns: int) -> list[Message]:
    return [Message(("user", "assistant")[i % 2], f" turn {i} " + "word " * 20) for i in range(turns)]


@pytest.mark.parametrize("template", [tiny.CHATML, MARKED, GEMMA, None])
def test_a_row_of_800_turns_takes_no_more_renderings_than_a_short_one(template: str | None) -> None:
    one = renderer(template, 10**9)
    counting = Counting(one.tokenizer)
    one.template = one._turns._template = one._turns._ends._template = counting
    one.render(conversation(4))
    counting.calls = 0
    started = time.process_time()
    made = one.render(conversation(800))
    assert time.process_time() - started < 0.5  # CPU seconds; 0.15 where this was written
    assert counting.calls <= 2
    assert supervised(made).count("turn") == 400


def test_turns_of_tool_calls_take_a_few_more_renderings_however_many() -> None:
    turns = [Message("assistant", "", tool_calls=(ToolCall("look", json.dumps({"n": i})),)) if i % 2 else
             Message("user", f"Q{i}") for i in range(200)]
    one = renderer(CALLS, 10**9)
    counting = Counting(one.tokenizer)
    one.template = one._turns._template = one._turns._ends._template = counting
    made = one.render(turns)
    assert counting.calls <= 12  # those that ask how turns begin and end included, and those that look for lost parts
    assert supervised(made).count("<call>look") == 100


@pytest.mark.parametrize("template", [tiny.CHATML, MARKED, GEMMA])
def test_a_row_far_beyond_the_limit_is_not_tokenised_whole_and_cut_alike(template: str) -> None:
    turns = talk("Q", "some words " * 4000, "q", "a")
    full: Rendered = renderer(template, 10**9).render(turns)
    one = renderer(template, 50)
    seen: list[int] = []
    encode = one._encoder.encode

    def watched(text: str, spans: Sequence[Span]) -> tuple[np.ndarray, np.ndarray]:
        seen.append(len(text))
        return encode(text, spans)

    one._encoder.encode = watched
    made = one.render(turns)
    assert max(seen) < 5000 < 44_000 < len(whole(full))
    assert made.ids.tolist() == full.ids[:50].tolist()
    assert made.mask.tolist() == full.mask[:50].tolist()
    assert made.cut_tokens == pytest.approx(len(full) - 50, rel=0.05)


def test_the_beginning_token_is_written_once() -> None:
    tokenizer = tiny.tokenizer("{{ bos_token }}" + tiny.CHATML)
    tokenizer.bos_token = "<|endoftext|>"
    made = Renderer(tokenizer, max_length=100).render(talk("Q", "A"))
    assert made.ids.tolist().count(0) == 1
