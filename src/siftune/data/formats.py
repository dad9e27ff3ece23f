"""The four shapes in which instruction data comes, and how each becomes one list of messages.

==================  ====================================================================================
``messages``        ``messages: [{role, content}]``, contents as text or as ``[{"type": "text", "text"}]``
``prompt-completion``  ``prompt`` with ``completion`` or ``response``, each text or a list of messages
``alpaca``          ``instruction``, optional ``input``, ``output`` (also Dolly's ``context``, ``response``)
``sharegpt``        ``conversations: [{from, value}]``
==================  ====================================================================================

A top-level ``system`` text, which the last three may carry, becomes the system message. Contents are kept
character for character.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from siftune.data.problems import BadRow
from siftune.data.rows import Message

Record = Mapping[str, Any]

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant",
    "bing": "assistant", "bard": "assistant", "function_call": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "function_response": "tool", "ipython": "tool",
}
"""Names of speakers found in public data, in lower case, and the role each one stands for."""


def detect(record: Record) -> str | None:
    """The format of a record by the keys it has, or ``None``; a richer format wins over a plainer one.

    Keys with a value count first: tables that were merged from several formats carry the other format's columns
    as nulls.
    """
    filled = {key: value for key, value in record.items() if value is not None}
    for keys in (filled, record):
        for name in _FORMATS:
            if fits(keys, name):
                return name
    return None


def fits(record: Record, format: str) -> bool:
    """Whether the record has the keys that the format needs."""
    return _FORMATS[format][0](record)


def to_messages(record: Record, format: str) -> tuple[Message, ...]:
    """The conversation of a record.

    Args:
        record: The parsed record.
        format: One of :data:`FORMATS`.

    Raises:
        BadRow: the record does not have that format, a role is unknown, a content is not text, there is no
            assistant turn or an empty one.
    """
    if not fits(record, format):
        raise BadRow("unknown-format", f"expected {format}, found the keys {keys_of(record)}")
    messages = _FORMATS[format][1](record)
    if format != "messages" and not any(message.role == "system" for message in messages) and record.get("system"):
        messages = [Message("system", _text(record["system"], "system")), *messages]
    answers = [message for message in messages if message.role == "assistant"]
    if not answers:
        raise BadRow("no-assistant-turn", f"the roles are {', '.join(m.role for m in messages)}" if messages else
                     "the conversation is empty")
    if any(not answer.content.strip() for answer in answers):
        raise BadRow("empty-response")
    return tuple(messages)


def keys_of(record: Record) -> str:
    """The keys of a record for a message to the user."""
    keys = [str(key) for key in record]
    return ", ".join(keys[:12]) + (", ..." if len(keys) > 12 else "") if keys else "(none)"


def _first(record: Record, *keys: str) -> str | None:
    """The first of the keys that the record has with a value."""
    return next((key for key in keys if record.get(key) is not None), None)


def _text(value: Any, what: str) -> str:
    """A content as text; a list of text parts is joined, anything else is refused."""
    if isinstance(value, list) and value and all(_is_text_part(part) for part in value):
        value = "".join(part["text"] for part in value)
    if not isinstance(value, str):
        raise BadRow("non-string-content", f"{what} is {_kind(value)}")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise BadRow("invalid-unicode", f"{what}, character {error.start}") from error
    return value


def _is_text_part(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type", "text") == "text" and isinstance(part.get("text"), str)


def _kind(value: Any) -> str:
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", dict: "an object"}
    if isinstance(value, list):
        types = sorted({str(part.get("type")) for part in value if isinstance(part, Mapping)} - {"text"})
        return f"a list with parts of type {', '.join(types)}" if types else "a list"
    return names.get(type(value), type(value).__name__)


def _turns(value: Any, what: str) -> list[Message]:
    """A list of ``{role, content}`` or ``{from, value}`` objects as messages."""
    if not isinstance(value, list):
        raise BadRow("non-string-content", f"{what} is {_kind(value)}, not a list of turns")
    messages = []
    for number, turn in enumerate(value, 1):
        name = f"{what}, turn {number}"
        if not isinstance(turn, Mapping):
            raise BadRow("non-string-content", f"{name} is {_kind(turn)}, not an object")
        speaker = turn.get("role", turn.get("from"))
        role = ROLES.get(speaker.strip().lower()) if isinstance(speaker, str) else None
        if role is None:
            raise BadRow("unknown-role", f"{name} has the role {speaker!r}")
        messages.append(Message(role, _text(turn.get("content", turn.get("value")), name)))
    return messages


def _side(value: Any, role: str, what: str) -> list[Message]:
    """A prompt or completion: text of that role, or a list of messages."""
    if isinstance(value, list) and not all(_is_text_part(part) for part in value):
        return _turns(value, what)
    return [Message(role, _text(value, what))]


def _read_messages(record: Record) -> list[Message]:
    return _turns(record["messages"], "messages")


def _read_sharegpt(record: Record) -> list[Message]:
    key = _first(record, "conversations", "conversation") or "conversations"
    return _turns(record[key], key)


def _read_alpaca(record: Record) -> list[Message]:
    history = []
    for number, pair in enumerate(record.get("history") or [], 1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRow("non-string-content", f"history, pair {number} is {_kind(pair)}, not a list of two texts")
        history += [Message("user", _text(pair[0], f"history, pair {number}")),
                    Message("assistant", _text(pair[1], f"history, pair {number}"))]
    instruction = _text(record["instruction"], "instruction")
    key = _first(record, "input", "context")
    extra = _text(record[key], key) if key else ""
    output = _first(record, "output", "response") or "output"
    # As LLaMA-Factory joins them, so that the text which is scored is the text which its users train on.
    prompt = f"{instruction}\n{extra}" if extra else instruction
    return [*history, Message("user", prompt), Message("assistant", _text(record[output], output))]


def _read_prompt_completion(record: Record) -> list[Message]:
    answer = _first(record, "completion", "response") or "completion"
    return [*_side(record["prompt"], "user", "prompt"), *_side(record[answer], "assistant", answer)]


def _has(*alternatives: tuple[str, ...]) -> Callable[[Record], bool]:
    return lambda record: all(any(key in record for key in keys) for keys in alternatives)


_FORMATS: dict[str, tuple[Callable[[Record], bool], Callable[[Record], list[Message]]]] = {
    "messages": (_has(("messages",)), _read_messages),
    "sharegpt": (_has(("conversations", "conversation")), _read_sharegpt),
    "alpaca": (_has(("instruction",), ("output", "response")), _read_alpaca),
    "prompt-completion": (_has(("prompt",), ("completion", "response")), _read_prompt_completion),
}

FORMATS = tuple(_FORMATS)
"""Names of the formats, in the order in which they are tried."""
