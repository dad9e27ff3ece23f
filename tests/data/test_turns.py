"""Tool calls, thoughts, tools and flags, in the forms in which public data writes them."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any

import pytest

from siftune.data.chat import as_record
from siftune.data.formats import Conversation, read_conversation
from siftune.data.problems import BadRow
from siftune.data.rows import Message, ToolCall, content_hash

LOOK = ToolCall("look", '{"city": "Oslo"}')
TEXT = '{"name": "look", "arguments": {"city": "Oslo"}}'
USER, ANSWER = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}


def read(*turns: Any, **record: Any) -> Conversation:
    return read_conversation({"messages": list(turns), **record}, "messages")


def reason(*turns: Any, **record: Any) -> str:
    with pytest.raises(BadRow) as caught:
        read(*turns, **record)
    return f"{caught.value.reason}: {caught.value.detail}"


@pytest.mark.parametrize("turn", [
    {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look", "arguments": LOOK.arguments}}]},
    {"role": "assistant", "tool_calls": [{"type": "function",
                                          "function": {"name": "look", "arguments": {"city": "Oslo"}}}]},
    {"role": "assistant", "content": "", "tool_calls": [{"name": "look", "arguments": {"city": "Oslo"}}]},
    {"role": "assistant", "content": "", "tool_calls": [{"name": "look", "parameters": {"city": "Oslo"}}]},
    {"role": "assistant", "content": "", "tool_calls": json.dumps([{"name": "look", "arguments": {"city": "Oslo"}}])},
    {"role": "assistant", "content": "", "function_call": {"name": "look", "arguments": LOOK.arguments}},
    {"role": "tool_call", "content": TEXT},
    {"from": "function_call", "value": TEXT},
    {"from": "function_call", "value": f"[{TEXT}]"},
])
def test_a_tool_call_is_the_same_in_every_form(turn: dict) -> None:
    messages = read(USER, turn, {"role": "tool", "content": "3"}, ANSWER).messages
    assert messages[1] == Message("assistant", "", (LOOK,))
    assert messages[2] == Message("tool", "3")


def test_calls_in_turns_of_their_own_join_the_turn_they_follow() -> None:
    messages = read(USER, {"role": "assistant", "content": "Wait."}, {"role": "tool_call", "content": TEXT},
                    {"role": "tool_call", "content": TEXT}, {"role": "tool_response", "content": "3"},
                    {"role": "tool_response", "content": "4"}, ANSWER).messages
    assert [m.role for m in messages] == ["user", "assistant", "tool", "tool", "assistant"]
    assert messages[1] == Message("assistant", "Wait.", (LOOK, LOOK))
    apart = read(USER, {**ANSWER, "weight": 0}, {"role": "tool_call", "content": TEXT}, ANSWER).messages
    assert [(m.content, len(m.tool_calls), m.train) for m in apart[1:]] == [
        ("A", 0, False), ("", 1, True), ("A", 0, True)]


def test_a_call_turn_of_other_text_stays_the_assistants_text() -> None:
    assert read(USER, {"role": "function_call", "content": "f(x)"}).messages[1] == Message("assistant", "f(x)")


@pytest.mark.parametrize("field", ["reasoning_content", "thinking", "reasoning"])
def test_a_thought_is_the_same_under_every_name(field: str) -> None:
    made = read(USER, {**ANSWER, field: "Hm."}).messages
    assert made[1] == Message("assistant", "A", reasoning="Hm.")
    assert read(USER, {**ANSWER, field: ""}).messages[1] == Message("assistant", "A")
    parts = {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "A"}]}
    assert read(USER, parts).messages == made
    assert read_conversation({"prompt": "Q", "completion": "A", field: "Hm."}, "prompt-completion").messages == made


@pytest.mark.parametrize(("field", "off", "on"), [("weight", 0, 1), ("weight", 0.0, 1.0), ("loss", False, True),
                                                  ("train", False, True), ("loss_mask", 0, 1)])
def test_turns_can_say_that_they_are_not_trained_on(field: str, off: Any, on: Any) -> None:
    messages = read({**USER, field: off}, {**ANSWER, field: off}, USER, {**ANSWER, field: on}, ANSWER).messages
    assert [m.train for m in messages if m.role == "assistant"] == [False, True, True]
    assert reason(USER, {**ANSWER, field: off}).startswith("nothing-to-supervise")
    assert f"turn 1, {field} asks to train on the user's turn" in reason({**USER, field: on}, ANSWER)


@pytest.mark.parametrize("value", [0.5, 2, -1, "yes", [1], float("nan")])
def test_a_weight_between_all_and_nothing_is_refused_with_its_field(value: Any) -> None:
    assert "unsupported-field: messages, turn 2, weight is" in reason(USER, {**ANSWER, "weight": value})


def test_contradictions_are_refused() -> None:
    assert "loss contradicts" in reason(USER, {**ANSWER, "weight": 1, "loss": False})
    assert "different thoughts" in reason(USER, {**ANSWER, "thinking": "a", "reasoning": "b"})
    assert "say different things" in reason({"role": "system", "content": "x"}, USER, ANSWER, system="y")
    assert read({"role": "system", "content": "x"}, USER, ANSWER, system=" x\n").messages[0].content == "x"
    system = {"role": "system", "content": "", "tools": [{"name": "f"}]}
    assert "different tools" in reason(system, USER, ANSWER, tools=[{"name": "g"}])


@pytest.mark.parametrize("tools", [
    [{"type": "function", "function": {"name": "look"}}], [{"name": "look"}], '[{"name": "look"}]',
    ['{"name": "look"}'], {"name": "look"}, '{"name": "look"}',
])
def test_tools_are_the_same_in_every_form(tools: Any) -> None:
    expected = [{"type": "function", "function": {"name": "look"}}]
    assert read(USER, ANSWER, tools=tools).tools == expected
    assert read({"role": "system", "content": "S", "tools": tools}, USER, ANSWER).tools == expected
    assert read(USER, ANSWER, tools=[]).tools is read(USER, ANSWER, tools="").tools is None


@pytest.mark.parametrize(("turns", "says"), [
    ([USER, {"role": "assistant", "content": None, "tool_calls": [{"function": {}}]}], "names no function"),
    ([USER, {"role": "assistant", "content": None, "tool_calls": "["}], "text and not JSON"),
    ([{**USER, "tool_calls": [{"name": "f"}]}, ANSWER], "the user's and calls tools"),
    ([USER, {**ANSWER, "tools": [{"name": "f"}]}], "tools stand in the record"),
    ([{"role": "user", "content": "<image>\nWhat?"}, ANSWER], "not-text: messages, turn 1, the placeholder <image>"),
    ([{"role": "user", "content": [{"type": "image_url"}]}, ANSWER], "parts of type image_url"),
    ([USER, {"role": "assistant", "content": "A", "tool_calls": [{"name": "f", "arguments": "\ud800"}]}],
     "invalid-unicode: messages, turn 2, call 1, arguments"),
    ([USER, {**ANSWER, "reasoning": "\ud800"}], "invalid-unicode: messages, turn 2, reasoning"),
])
def test_what_cannot_be_honoured_is_named(turns: list, says: str) -> None:
    assert says in reason(*turns)


def test_a_placeholder_inside_a_text_is_text() -> None:
    assert read({"role": "user", "content": "Explain <image> in RSS."}, ANSWER).messages[0].role == "user"


def test_turns_stored_as_text_are_read_and_python_s_own_spelling_is_told() -> None:
    text = json.dumps([USER, ANSWER])
    assert read_conversation({"messages": text}, "messages").messages == read(USER, ANSWER).messages
    with pytest.raises(BadRow, match=r"write it with json\.dumps"):
        read_conversation({"messages": str([USER, ANSWER])}, "messages")


def test_tables_with_types_lose_the_nulls_that_filled_up_their_objects() -> None:
    call = {"name": "look", "arguments": {"city": "Oslo", "day": None}}
    record = {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [call]}],
              "tools": [{"name": "look", "parameters": {"city": {"type": "string"}, "day": None}}]}
    typed, plain = (read_conversation(record, "messages", typed=typed) for typed in (True, False))
    assert typed.messages[1].tool_calls[0].arguments == '{"city": "Oslo"}'
    assert plain.messages[1].tool_calls[0].arguments == '{"city": "Oslo", "day": null}'
    assert typed.tools is not None
    assert typed.tools[0]["function"]["parameters"] == {"city": {"type": "string"}}


def test_the_content_key_changes_with_everything_that_a_model_sees_or_is_trained_on() -> None:
    plain = (Message("user", "Q"), Message("assistant", "A"))
    variants = [(plain, None), (plain, [{"type": "function", "function": {"name": "f"}}])]
    for changes in ({"tool_calls": (LOOK,)}, {"reasoning": "Hm."}, {"train": False}, {"name": "x"}, {"content": "B"}):
        variants.append(((plain[0], Message("assistant", **{"content": "A", **changes})), None))
    assert len({content_hash(*one) for one in variants}) == len(variants)
    assert content_hash(plain) == blake2b(b'[["user", "Q"], ["assistant", "A"]]', digest_size=16).hexdigest()


def test_what_is_written_for_a_trainer_is_read_back_as_the_same_messages() -> None:
    made = read(USER, {"role": "assistant", "content": "Wait.", "reasoning": "Hm.", "weight": 0, "name": "bot",
                       "tool_calls": [{"id": "c", "name": "look", "arguments": {"city": "Oslo"}}]},
                {"role": "tool", "content": "3", "tool_call_id": "c", "name": "look"}, ANSWER).messages
    assert read(*map(as_record, made)).messages == made
