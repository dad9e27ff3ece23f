"""Messages as chat templates take them, and whether a template renders all that a row says.

Templates read the fields that transformers documents: ``tool_calls`` with the arguments as an object, ``tools`` beside
the messages. For the thought there are three names, and each template reads one of them; all three are given.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

from siftune.data.columns import REASONING
from siftune.data.problems import BadRow
from siftune.data.rows import Message, ToolCall, Tools

Render = Callable[[Sequence[Message], Tools | None], str]


def as_turn(message: Message, *, arguments_as_text: bool = False) -> dict[str, Any]:
    """A message as ``apply_chat_template`` takes it.

    Args:
        message: The turn.
        arguments_as_text: Give a call's arguments as JSON text, for the few templates that print them so.
    """
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = [_as_call(call, arguments_as_text) for call in message.tool_calls]
    if message.reasoning:
        turn.update(dict.fromkeys(REASONING, message.reasoning))
    if message.name is not None:
        turn["name"] = message.name
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    return turn


def as_record(message: Message) -> dict[str, Any]:
    """A message as a turn of a data file, in OpenAI's form: what is read back is the same message."""
    turn = as_turn(message)
    for name in REASONING[1:]:
        turn.pop(name, None)
    return turn if message.train else {**turn, "weight": 0}


def _as_call(call: ToolCall, as_text: bool) -> dict[str, Any]:
    arguments: Any = call.arguments
    if not as_text:
        try:
            arguments = json.loads(call.arguments)
        except (ValueError, RecursionError):
            arguments = call.arguments  # some data has other text there
    made: dict[str, Any] = {"type": "function", "function": {"name": call.name, "arguments": arguments}}
    return {"id": call.id, **made} if call.id is not None else made


def check_rendered(messages: Sequence[Message], tools: Tools | None, text: str, render: Render) -> None:
    """Refuse a row of which the template leaves something out, found by taking the part away: the text must change.

    A thought may go where the template drops those of earlier turns, if it renders that turn's thought while the turn
    is the last. At most one rendering for each kind of part, however long the conversation; rows of plain text need
    none.

    Args:
        messages, tools: The row.
        text: Its rendering.
        render: How messages and tools are rendered; it may raise :class:`BadRow`, which counts as a difference.

    Raises:
        BadRow: ``template-drops``, naming what is left out.
    """
    def same(changed: Sequence[Message], with_tools: Tools | None = tools, than: str = text) -> bool:
        try:
            return render(changed, with_tools) == than
        except BadRow:
            return False

    if tools and same(messages, None):
        raise BadRow("template-drops", "the tools")
    calls = [m for m in messages if m.tool_calls]
    if calls:
        if same([_replace(m, tool_calls=()) for m in messages]):
            raise BadRow("template-drops", f"the tool calls, such as {calls[0].tool_calls[0].name!r:.80}")
        if any(len(m.tool_calls) > 1 for m in calls) and same(
                [_replace(m, tool_calls=m.tool_calls[:1]) for m in messages]):
            raise BadRow("template-drops", "all tool calls of a turn but the first")
        if any(m.content.strip() for m in calls) and same([_without_content(m) for m in messages]):
            raise BadRow("template-drops", "the text beside a tool call")
    if any(m.role == "tool" and m.content.strip() for m in messages) and same(
            [_replace(m, content="") if m.role == "tool" else m for m in messages]):
        raise BadRow("template-drops", "the results of tools")
    thoughts = [i for i, m in enumerate(messages) if m.reasoning]
    if thoughts and same([_replace(m, reasoning=None) for m in messages]):
        last = thoughts[-1]
        until = list(messages[: last + 1])
        try:
            shown = render(until, tools)
        except BadRow:
            shown = ""
        if same([*until[:-1], _replace(until[-1], reasoning=None)], tools, shown):
            raise BadRow("template-drops", "the thought (reasoning_content)")


def _replace(message: Message, **changes: Any) -> Message:
    return dataclasses.replace(message, **changes)


def _without_content(message: Message) -> Message:
    return _replace(message, content="") if message.tool_calls and message.content.strip() else message
