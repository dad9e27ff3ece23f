from __future__ import annotations

import pytest
from hypothesis import given

from siftune.data.formats import FORMATS, detect, read_conversation
from siftune.data.problems import BadRow
from siftune.data.rows import Message
from tests.data.samples import ANSWERS, TEXTS, record

PAIR = (Message("user", "Q"), Message("assistant", "A"))


@pytest.mark.parametrize("format", FORMATS)
@given(prompt=TEXTS, answer=ANSWERS)
def test_contents_survive_character_for_character(format: str, prompt: str, answer: str) -> None:
    made = record(format, prompt, answer)
    found = detect(made)
    assert found is not None
    assert found.name == format
    assert read_conversation(made, format).messages == (Message("user", prompt), Message("assistant", answer))


@pytest.mark.parametrize(("made", "messages"), [
    ({"prompt": "Q", "response": "A"}, PAIR),
    ({"prompt": [{"role": "user", "content": "Q"}], "completion": [{"role": "assistant", "content": "A"}]}, PAIR),
    ({"instruction": "Q", "output": "A"}, PAIR),
    ({"instruction": "Q", "input": "x", "output": "A"}, (Message("user", "Q\nx"), PAIR[1])),
    ({"instruction": "Q", "context": "x", "response": "A"}, (Message("user", "Q\nx"), PAIR[1])),
    ({"instruction": "Q", "output": "A", "history": [["q", "a"]]},
     (Message("user", "q"), Message("assistant", "a"), *PAIR)),
    ({"instruction": "Q", "output": "A", "system": "S"}, (Message("system", "S"), *PAIR)),
    ({"messages": [{"role": "User", "content": [{"type": "text", "text": "Q"}]},
                   {"role": "model", "content": [{"type": "text", "text": "A"}]}]}, PAIR),
    ({"conversations": [{"from": "system", "value": "S"}, {"from": "human", "value": "Q"},
                        {"from": "function_call", "value": "f()"}, {"from": "observation", "value": "1"},
                        {"from": "gpt", "value": "A"}]},
     (Message("system", "S"), PAIR[0], Message("assistant", "f()"), Message("tool", "1"), PAIR[1])),
    ({"conversations": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}, PAIR),
    ({"messages": None, "instruction": "Q", "input": None, "output": "A"}, PAIR),
])
def test_variants_found_in_public_data_are_read(made: dict, messages: tuple[Message, ...]) -> None:
    format = detect(made)
    assert format is not None
    assert read_conversation(made, format).messages == messages


@pytest.mark.parametrize(("made", "reason"), [
    ({"messages": []}, "no-assistant-turn"),
    ({"messages": [{"role": "user", "content": "Q"}]}, "no-assistant-turn"),
    ({"prompt": "Q", "completion": " \n"}, "empty-response"),
    ({"prompt": "Q", "completion": 4}, "non-string-content"),
    ({"prompt": "Q", "completion": None}, "non-string-content"),
    ({"prompt": "Q", "completion": "\ud83d"}, "invalid-unicode"),
    ({"messages": "text"}, "non-string-content"),
    ({"messages": ["text"]}, "non-string-content"),
    ({"messages": [{"role": "assistant", "content": None, "tool_calls": []}]}, "non-string-content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, "non-string-content"),
    ({"messages": [{"role": "narrator", "content": "Q"}]}, "unknown-role"),
    ({"messages": [{"content": "Q"}]}, "unknown-role"),
    ({"instruction": "Q", "output": "A", "history": ["q"]}, "non-string-content"),
])
def test_a_malformed_record_is_refused_with_its_reason(made: dict, reason: str) -> None:
    format = detect(made)
    assert format is not None
    with pytest.raises(BadRow) as caught:
        read_conversation(made, format)
    assert caught.value.reason == reason


def test_unknown_keys_are_no_format_and_an_explicit_format_says_what_it_found() -> None:
    assert detect({"text": "x"}) is None
    with pytest.raises(BadRow, match="expected alpaca, found the keys prompt, completion"):
        read_conversation({"prompt": "Q", "completion": "A"}, "alpaca")
