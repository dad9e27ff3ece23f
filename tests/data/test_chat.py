"""What a row says reaches the chat template, and a row of which the template leaves something out is refused."""

from __future__ import annotations

from typing import Any

import pytest

from siftune._common.errors import DataError
from siftune.data.chat import as_turn
from siftune.data.formats import read_conversation
from siftune.data.problems import BadRow
from siftune.data.render import Renderer
from siftune.data.rendering import render_rows
from siftune.data.rows import Message, Rendered, Row, ToolCall
from tests import tiny
from tests.data.samples import row

TEMPLATE = (
    "{% if tools %}{{ '<|im_start|>system\n' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endif %}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.reasoning_content and loop.index0 > last_user.i %}{{ '<think>' + m.reasoning_content + '</think>' }}"
    "{% endif %}{{ m.content }}{% for call in m.tool_calls or [] %}"
    "{{ '<tool_call>' + call.function.name + call.function.arguments | tojson + '</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATE = ("{% set last_user = namespace(i=-1) %}{% for m in messages %}{% if m.role == 'user' %}"
            "{% set last_user.i = loop.index0 %}{% endif %}{% endfor %}") + TEMPLATE
MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CALL = ToolCall("look", '{"city": "Oslo"}')
TOOLS = [{"type": "function", "function": {"name": "look"}}]
ASK = Message("user", "Q")


def renderer(template: str | None = TEMPLATE, max_length: int = 10_000) -> Renderer:
    return Renderer(tiny.tokenizer(template), max_length=max_length)


def supervised(made: Rendered) -> str:
    return tiny.tokenizer().decode(made.ids[made.mask].tolist())


def test_calls_thoughts_and_tools_are_rendered_and_what_the_assistant_says_is_supervised() -> None:
    messages = [ASK, Message("assistant", "Wait.", (CALL,), reasoning="Hm."), Message("tool", "3"),
                Message("assistant", "3 degrees")]
    made = renderer().render(messages, TOOLS)
    assert supervised(made) == ('<think>Hm.</think>Wait.<tool_call>look{"city": "Oslo"}</tool_call><|im_end|>'
                                "3 degrees<|im_end|>")
    assert tiny.tokenizer().decode(made.ids.tolist()).startswith(
        '<|im_start|>system\n{"type": "function", "function": {"name": "look"}}')


@pytest.mark.parametrize(("template", "messages", "tools", "part"), [
    (tiny.CHATML, [ASK, Message("assistant", "A")], TOOLS, "the tools"),
    (tiny.CHATML, [ASK, Message("assistant", "A", (CALL,))], None, "the tool calls, such as 'look'"),
    (tiny.CHATML, [ASK, Message("assistant", "A", reasoning="Hm.")], None, "the thought"),
    (None, [ASK, Message("assistant", "A", (CALL,))], None, "the tool calls"),
    (TEMPLATE.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]"), [ASK, Message("assistant", "A", (CALL, CALL))],
     None, "all tool calls of a turn but the first"),
    (TEMPLATE.replace("{{ m.content }}", "{% if not m.tool_calls %}{{ m.content }}{% endif %}"),
     [ASK, Message("assistant", "Wait.", (CALL,))], None, "the text beside a tool call"),
    (TEMPLATE.replace("{{ m.content }}", "{% if m.role != 'tool' %}{{ m.content }}{% endif %}"),
     [ASK, Message("assistant", "", (CALL,)), Message("tool", "3"), Message("assistant", "A")], None,
     "the results of tools"),
])
def test_what_a_template_leaves_out_refuses_the_row(template: str | None, messages: list[Message], tools: Any,
                                                    part: str) -> None:
    with pytest.raises(BadRow) as caught:
        renderer(template).render(messages, tools)
    assert caught.value.reason == "template-drops"
    assert caught.value.detail.startswith(part)


def test_thoughts_of_earlier_turns_go_as_the_template_says() -> None:
    made = renderer().render([ASK, Message("assistant", "A", reasoning="Hm."), ASK, Message("assistant", "B")])
    assert "Hm." not in tiny.tokenizer().decode(made.ids.tolist())


def test_refused_rows_are_counted_with_a_way_out() -> None:
    calling = [ASK, Message("assistant", "", (CALL,))]
    rows = [row("Q", "A", "0"), Row("1", "pool", "pool.jsonl:2", tuple(calling), "{}", "h", "messages", tools=TOOLS)]
    with pytest.raises(DataError, match="1 template-drops") as caught:
        render_rows(rows, renderer(tiny.CHATML), role="pool")
    assert "whose chat template renders them" in str(caught.value.hint)
    left = render_rows(rows, renderer(tiny.CHATML), role="pool", bad_rows="drop")
    assert [one.reason for one in left.dropped] == ["template-drops"]
    assert len(render_rows(rows, renderer(), role="pool")) == 2


@pytest.mark.parametrize("template", [tiny.CHATML, MARKED, None])
def test_turns_that_are_not_trained_on_are_not_supervised(template: str | None) -> None:
    end = "<|im_end|>" if template else "<|endoftext|>"
    for trained in ((False, True), (True, False)):
        turns = [ASK, Message("assistant", "A", train=trained[0]), ASK, Message("assistant", "B", train=trained[1])]
        made = renderer(template).render(turns)
        assert supervised(made) == ("A" if trained[0] else "B") + end
        whole = renderer(template).render([ASK, Message("assistant", "A"), ASK, Message("assistant", "B")])
        assert made.ids.tolist() == whole.ids.tolist()


def test_arguments_are_objects_and_text_for_templates_that_cannot_take_those() -> None:
    assert as_turn(Message("assistant", "", (CALL,)))["tool_calls"][0]["function"]["arguments"] == {"city": "Oslo"}
    assert as_turn(Message("assistant", "", (ToolCall("f", "x=1"),)))["tool_calls"][0]["function"]["arguments"] == "x=1"
    joined = TEMPLATE.replace("call.function.arguments | tojson", "call.function.arguments")
    made = renderer(joined).render([ASK, Message("assistant", "", (CALL,))])
    assert '<tool_call>look{"city": "Oslo"}</tool_call>' in supervised(made)


def test_sharegpt_rows_with_tools_render_like_openai_rows() -> None:
    called = '{"name": "look", "arguments": {"city": "Oslo"}}'
    record = {"conversations": [{"from": "human", "value": "Q"}, {"from": "function_call", "value": called},
                                {"from": "observation", "value": "3"}, {"from": "gpt", "value": "A"}],
              "tools": '[{"name": "look"}]'}
    made = read_conversation(record, "sharegpt")
    messages = [ASK, Message("assistant", "", (CALL,)), Message("tool", "3"), Message("assistant", "A")]
    assert renderer().render(made.messages, made.tools).ids.tolist() == renderer().render(messages, TOOLS).ids.tolist()


@pytest.mark.parametrize("template", [tiny.CHATML, None])
def test_far_too_long_rows_are_cut_before_they_are_tokenised_and_come_out_the_same(template: str | None) -> None:
    words = "Paris is the capital of France. " * 2000
    whole = renderer(template, 100_000).render([ASK, Message("assistant", words)])
    cut = renderer(template, max_length=30).render([ASK, Message("assistant", words)])
    assert cut.ids.tolist() == whole.ids[:30].tolist()
    assert cut.mask.tolist() == whole.mask[:30].tolist()
    assert cut.cut_tokens == pytest.approx(len(whole) - 30, rel=0.05)
    with pytest.raises(BadRow, match=rf"number {len(whole) - 2} of {len(whole)}, the limit is 30"):
        renderer(template, max_length=30).render([Message("user", words), Message("assistant", "Q")])
