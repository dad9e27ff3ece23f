"""No field of a record is lost without a word: it is used, kept, or named in the message that refuses the row."""

from __future__ import annotations

from typing import Any

import pytest

from siftune._common.errors import ConfigError
from siftune.data import columns
from siftune.data.columns import FORMATS, Format, advice, named_columns
from siftune.data.formats import Conversation, detect, read_conversation
from siftune.data.problems import BadRow

CALL = {"function": {"name": "look", "arguments": {"x": 1}}}
TURN_VALUES: dict[str, list[Any]] = {
    "weight": [0, 1], "loss": [False, True], "train": [False, True], "loss_mask": [0, 1],
    "tool_calls": [[CALL], [CALL, CALL]], "function_call": [CALL["function"], {"name": "other", "arguments": "{}"}],
}
PART_VALUES: dict[str, list[Any]] = {
    "messages": [[{"role": "user", "content": text}, {"role": "assistant", "content": "A"}] for text in "xy"],
    "history": [[["q", "a"]], [["q", "b"]]],
    **{name: [[{"name": "look"}], [{"name": "find"}]] for name in columns.TOOLS},
}


def with_all_needs(one: Format) -> dict[str, Any]:
    return {one.columns[part][0]: PART_VALUES.get(part, ["x"])[0] for part in one.needs}


def outcome(record: dict[str, Any], format: str) -> Conversation | str:
    try:
        return read_conversation(record, format)
    except BadRow as problem:
        return f"{problem.reason}: {problem.detail}"


COLUMNS = [(one.name, part, name) for one in FORMATS.values() for part, names in one.columns.items() for name in names]


@pytest.mark.parametrize(("format", "part", "name"), COLUMNS)
def test_every_column_of_every_format_changes_the_row(format: str, part: str, name: str) -> None:
    one = FORMATS[format]
    record = with_all_needs(one)
    if part in one.needs:
        record.pop(one.columns[part][0])
    first, second = (outcome({**record, name: value}, format) for value in PART_VALUES.get(part, ["x", "y"]))
    assert isinstance(first, Conversation), first
    assert isinstance(second, Conversation), second
    assert name in first.used
    assert not first.kept
    assert (first.messages, first.tools) != (second.messages, second.tools)


@pytest.mark.parametrize("name", sorted(columns.TURN_FIELDS))
def test_every_field_of_a_turn_changes_the_row(name: str) -> None:
    user, answer = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
    last: dict[str, Any] = {"role": "assistant", "content": "B"}
    found = []
    for value in TURN_VALUES.get(name, PART_VALUES.get(name, ["x", "y"])):
        if name in ("role", "from"):
            turns = [{"content": "Q", name: {"x": "user", "y": "system"}[value]}, answer, last]
        elif name in ("content", "value"):
            turns = [{"role": "user", name: value}, answer, last]
        elif name in columns.TOOLS:
            turns = [{"role": "system", "content": "S", name: value}, user, answer]
        else:
            turns = [user, {**answer, name: value}, user, last]
        made = outcome({"messages": turns}, "messages")
        assert isinstance(made, Conversation), made
        assert f"messages[].{name}" in made.used
        assert not made.kept
        found.append((made.messages, made.tools))
    assert found[0] != found[1]


@pytest.mark.parametrize("format", FORMATS)
def test_refused_columns_are_named_where_they_hold_something_and_pass_where_they_do_not(format: str) -> None:
    one = FORMATS[format]
    for name in (*columns.REFUSED, *one.refused):
        told = outcome({**with_all_needs(one), name: ["x"]}, format)
        assert isinstance(told, str)
        assert name in told
        for nothing in (None, [], "", {}):
            assert isinstance(outcome({**with_all_needs(one), name: nothing}, format), Conversation)


@pytest.mark.parametrize("name", sorted(columns.REFUSED_IN_TURN))
def test_refused_fields_of_turns_are_named(name: str) -> None:
    told = outcome({"messages": [{"role": "user", "content": "Q", name: "x"}, {"role": "assistant", "content": "A"}]},
                   "messages")
    assert isinstance(told, str)
    assert f"turn 1, {name}" in told


@pytest.mark.parametrize("format", FORMATS)
def test_other_fields_are_kept_and_nulls_are_nothing(format: str) -> None:
    made = outcome({**with_all_needs(FORMATS[format]), "difficulty": 3, "source_url": None}, format)
    assert isinstance(made, Conversation)
    assert made.kept == {"difficulty"}
    assert not {"difficulty", "source_url"} & made.used


def test_fields_of_turns_and_calls_that_nobody_knows_are_kept() -> None:
    made = outcome({"messages": [{"role": "user", "content": "Q", "ts": 1, "lang": None},
                                 {"role": "assistant", "content": "A", "tool_calls": [{**CALL, "cost": 2}]}]},
                   "messages")
    assert isinstance(made, Conversation)
    assert made.kept == {"messages[].ts", "messages[].tool_calls[].cost"}


def test_a_second_column_for_the_same_part_is_kept_and_not_mixed_in() -> None:
    turns = [{"role": "user", "from": "gpt", "content": "Q", "value": "R"}, {"role": "assistant", "content": "A"}]
    doubled = outcome({"messages": turns}, "messages")
    assert isinstance(doubled, Conversation)
    assert doubled.kept == {"messages[].from", "messages[].value"}
    assert doubled.messages[0].content == "Q"
    made = outcome({"instruction": "Q", "output": "A", "response": "B"}, "alpaca")
    assert isinstance(made, Conversation)
    assert [m.content for m in made.messages] == ["Q", "A"]
    assert made.kept == {"response"}


@pytest.mark.parametrize(("given", "record", "said"), [
    (["prompt=ask,completion=say"], {"ask": "Q", "say": "A"}, ["Q", "A"]),
    (["prompt=ask", "completion=say", "system=rules"], {"ask": "Q", "say": "A", "rules": "S"}, ["S", "Q", "A"]),
    (["messages=chat"], {"chat": [{"role": "user", "content": "Q"}, {"role": "gpt", "content": "A"}]}, ["Q", "A"]),
    (["prompt=a, b,completion=c"], {"a, b": "Q", "c": "A"}, ["Q", "A"]),
    (["prompt=input,completion=output,input="], {"input": "Q", "output": "A"}, ["Q", "A"]),
    (["prompt=question,completion=answer,system="], {"question": "Q", "answer": "A", "system": "S"}, ["Q", "A"]),
    (["prompt=q,completion=a,history=h,input=more"], {"q": "Q", "a": "A", "h": [["x", "y"]], "more": "M"},
     ["x", "y", "Q\nM", "A"]),
])
def test_named_columns_are_read_by_the_parts_they_are(given: list[str], record: dict, said: list[str]) -> None:
    named = named_columns(given)
    assert named is not None
    assert detect(record, named) is named
    made = read_conversation(record, named)
    assert [m.content for m in made.messages] == said
    assert made.used | made.kept >= set(record)


@pytest.mark.parametrize(("given", "says"), [
    (["question"], "names no column"), (["promt=q"], "did you mean 'prompt'"), (["prompt=a,prompt=b"], "two columns"),
    (["prompt=a"], "do not make a conversation"), (["messages=,system=s"], "do not make a conversation"),
])
def test_columns_that_cannot_be_meant_are_refused(given: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        named_columns(given)
    assert says in str(caught.value)
    assert "--columns" in str(caught.value)


@pytest.mark.parametrize(("record", "says"), [
    ({"prompt": "Q", "chosen": "A", "rejected": "B"}, "--columns prompt=prompt,completion=chosen"),
    ({"text": "x"}, "plain text"), ({"input_ids": [1]}, "tokenised"),
    ({"train": [{"a": 1}], "test": [{"a": 1}]}, "'.train[]'"),
    ({"a": {"0": 1, "1": 2}, "b": {"0": 1, "1": 2}}, "pandas"),
])
def test_advice_says_what_a_record_seems_to_be(record: dict, says: str) -> None:
    assert says in str(advice(record))
