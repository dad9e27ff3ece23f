"""Conversations with sentinels in the place of their contents, to see what a chat template writes around them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from siftune.data.rows import Message

_KEY, _VALUE = "k", "v"  # last letters of the sentinels of an argument's name and value


class Sentinels:
    """A conversation with sentinels in the place of its contents.

    Args:
        messages: The conversation.
        word: What occurs nowhere in it; all sentinels begin with it.
    """

    def __init__(self, messages: Sequence[Message], word: str):
        self.messages = messages
        self._word = word

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        # Compiled only where it is asked for: words differ from row to row, and that takes longer than a rendering.
        return re.compile(rf"{self._word}(\d+)[cr{_KEY}{_VALUE}]")

    @cached_property
    def all(self) -> list[Message]:
        """The conversation with sentinels everywhere."""
        return [self._hidden(number, message) for number, message in enumerate(self.messages)]

    def shown(self, text: str) -> list[tuple[int, int, int]]:
        """Message index, start and end of every sentinel in a text."""
        return [(int(found.group(1)), found.start(), found.end()) for found in self._pattern.finditer(text)]

    def repeated(self, text: str, shown: Sequence[tuple[int, int, int]]) -> bool:
        """Whether an assistant's content stands in a text twice."""
        contents = [text[start:end] for message, start, end in shown
                    if text[end - 1] == "c" and self.messages[message].role == "assistant"]
        return len(set(contents)) < len(contents)

    def without(self, messages: set[int]) -> list[Message]:
        """The conversation with the sentinels, but those messages as they are."""
        return [self.messages[i] if i in messages else hidden for i, hidden in enumerate(self.all)]

    def shape(self) -> tuple[tuple[str, bool], ...] | None:
        """What the rendered sentinels depend on, where that is only roles and which contents are blank."""
        if any(m.tool_calls or m.reasoning or m.name or m.tool_call_id for m in self.messages):
            return None
        return tuple((m.role, not m.content.strip()) for m in self.messages)

    def plain(self) -> list[str] | None:
        """What each message has in the place of its sentinel; ``None`` where thoughts or tool calls have some too."""
        if any(message.tool_calls or message.reasoning for message in self.messages):
            return None
        return [message.content for message in self.messages]

    def _hidden(self, number: int, message: Message) -> Message:
        assistant = message.role == "assistant"
        content = f"{self._word}{number}c" if message.content.strip() or (assistant and not message.tool_calls) else \
            message.content
        if not message.tool_calls and not message.reasoning:
            return replace(message, content=content)
        key, value = (f"{self._word}{number}{letter}" for letter in (_KEY, _VALUE))
        calls = tuple(replace(call, arguments=json.dumps({key: value}) if call.arguments.lstrip()[:1] == "{" else value)
                      for call in message.tool_calls)
        return replace(message, content=content, tool_calls=calls,
                       reasoning=f"{self._word}{number}r" if message.reasoning else message.reasoning)


Item = tuple[int, int, int, str | None]  # message, number of its first and last sentinel; as Place.calls in turn_spans


def items_of(shown: list[tuple[int, int, int]], form: str) -> tuple[list[Item], list[str]]:
    """Neighbouring sentinels of one message as one item, and the constant text around the items."""
    items: list[Item] = []
    constants: list[str] = []
    end = 0
    for number, (message, start, stop) in enumerate(shown):
        calls = "" if form[stop - 1] in (_KEY, _VALUE) else None
        if items and items[-1][0] == message:
            _, first, _, before = items[-1]
            if calls is not None:
                calls = (before or "") + (form[end:start] if form[end - 1] == _KEY and form[stop - 1] == _VALUE else "")
            items[-1] = (message, first, number, calls)
        else:
            constants.append(form[end:start])
            items.append((message, number, number, calls))
        end = stop
    return items, [*constants, form[end:]]
