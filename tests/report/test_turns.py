"""A row is shown as a conversation where it is one, in whatever format it came, and as JSON otherwise."""

from __future__ import annotations

import json
from typing import Any

import pytest

from siftune.report.turns import MAX_CHARACTERS, MAX_TURNS, gist, view

ASKED = [("user", "Hi?"), ("assistant", "Ho.")]


def turns(row: Any) -> list[tuple[str, str]]:
    return [(turn["role"], turn["text"]) for turn in view(row)["turns"]]


@pytest.mark.parametrize("row", [
    {"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Ho."}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi?"}]},
                  {"role": "assistant", "content": "Ho."}]},
    {"conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Ho."}]},
    {"prompt": "Hi?", "completion": "Ho."},
    {"prompt": "Hi?", "response": "Ho."},
    {"prompt": [{"role": "user", "content": "Hi?"}], "completion": [{"role": "assistant", "content": "Ho."}]},
    {"instruction": "Hi?", "input": "", "output": "Ho."},
    {"instruction": "Hi?", "output": "Ho.", "id": 7},
])
def test_every_usual_format_reads_alike(row: dict[str, Any]) -> None:
    assert turns(row) == ASKED


def test_a_system_prompt_beside_the_turns_comes_first() -> None:
    assert turns({"system": "Be brief.", "prompt": "Hi?", "completion": "Ho."}) == [("system", "Be brief."), *ASKED]


def test_the_input_of_an_instruction_follows_it() -> None:
    assert turns({"instruction": "Add.", "input": "1 2", "output": "3"})[0] == ("user", "Add.\n\n1 2")


def test_tool_calls_are_shown_with_their_turn() -> None:
    found = turns({"messages": [{"role": "assistant", "content": None, "tool_calls": [{"name": "add"}]}]})
    assert json.loads(found[0][1]) == {"tool_calls": [{"name": "add"}]}


@pytest.mark.parametrize("row", [
    {"text": "plain"}, {"messages": []}, {"messages": [1, 2]}, {"messages": "Hi"}, {"prompt": 3, "completion": "x"},
    {"instruction": "x"}, [1, {"a": None}], 7, None,
])
def test_anything_else_is_shown_as_the_json_it_is(row: Any) -> None:
    ((role, text),) = turns(row)
    assert role == "row"
    assert json.loads(text) == row


def test_long_turns_and_long_conversations_are_cut_and_say_so() -> None:
    shown = view({"messages": [{"role": "user", "content": "x" * (MAX_CHARACTERS + 5)}] * (MAX_TURNS + 2)})
    assert len(shown["turns"]) == MAX_TURNS
    assert shown["more_turns"] == 2
    assert shown["turns"][0]["cut"] == 5
    assert len(shown["turns"][0]["text"]) == MAX_CHARACTERS


def test_the_gist_is_what_the_user_asks() -> None:
    assert gist({"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}]}) == "Q"
    assert gist({"a": 1}) == '{\n  "a": 1\n}'
