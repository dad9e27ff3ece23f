"""Turns as public data writes them become messages: roles, tool calls, thoughts, and which turns are supervised."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from siftune.data.columns import (
    CALL_FIELDS,
    CONTENT_FIELDS,
    FLAG_FIELDS,
    PLACEHOLDERS,
    REASONING,
    REFUSED_IN_TURN,
    ROLE_FIELDS,
    TOOLS,
    TURN_FIELDS,
)
from siftune.data.limits import Limits
from siftune.data.problems import BadRow
from siftune.data.rows import Message, ToolCall, Tools

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant",
    "bing": "assistant", "bard": "assistant", "ai": "assistant",
    "function_call": "assistant", "tool_call": "assistant", "tool_calls": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "function_response": "tool", "ipython": "tool",
    "tool_response": "tool", "tool_result": "tool",
}
"""Names of speakers found in public data, in lower case, and the role each one stands for."""

_PLAIN_ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
# Names of the same thing, of which the first with a value is read.
_ALTERNATIVES = {name: names for names in (ROLE_FIELDS, CONTENT_FIELDS, TOOLS) for name in names}
_CALLERS = frozenset(("function_call", "tool_call", "tool_calls"))


class Turns:
    """Reads the turns of one record.

    Args:
        limits: What is too large.
        typed: The record comes from a table with types, where objects that differ in their keys are filled up with
            nulls: these are taken out of tools and arguments again.

    Attributes:
        used, kept: Fields seen so far with a value, such as ``messages[].weight``.
        tools: What a system turn says may be called.
    """

    def __init__(self, limits: Limits, *, typed: bool = False):
        self._limits, self._typed = limits, typed
        self.used: set[str] = set()
        self.kept: set[str] = set()
        self.tools: Tools | None = None

    def read(self, value: Any, what: str) -> list[Message]:
        """A list of ``{role, content}`` or ``{from, value}`` objects, or its JSON text, as messages.

        Raises:
            BadRow: something is not what it must be.
        """
        if isinstance(value, str):
            value = self.json_text(value, what)
        if not isinstance(value, list):
            raise BadRow("non-string-content", f"{what} is {kind_of(value)}, not a list of turns")
        if len(value) > self._limits.turns:
            raise self._limits.exceeded("turns", f"{what} has {len(value):,} turns, more than")
        messages: list[Message] = []
        seen: set[str] = set()
        for number, turn in enumerate(value, 1):
            if type(turn) is dict and (plain := _plain(turn)) is not None:
                messages.append(plain)
                seen.update(turn)
                continue
            name = f"{what}, turn {number}"
            if not isinstance(turn, Mapping):
                raise BadRow("non-string-content", f"{name} is {kind_of(turn)}, not an object")
            message = self._turn(turn, name, what)
            before = messages[-1] if messages else None
            if message.tool_calls and not message.content and _speaker(turn) in _CALLERS and before is not None and (
                    before.role == "assistant" and before.train == message.train and not message.reasoning):
                # A turn of its own for each call, where other formats have one turn with text and all its calls.
                messages[-1] = dataclasses.replace(before, tool_calls=before.tool_calls + message.tool_calls)
            else:
                messages.append(message)
        self.used.update(f"{what}[].{key}" for key in seen)
        return messages

    def _turn(self, turn: Mapping[str, Any], name: str, what: str) -> Message:
        for key, value in turn.items():
            if value is None:
                continue
            if key in REFUSED_IN_TURN and value:
                raise refused(f"{name}, {key}", REFUSED_IN_TURN[key])
            used = key in TURN_FIELDS and key == _first_key(turn, _ALTERNATIVES.get(key, (key,)))
            (self.used if used else self.kept).add(f"{what}[].{str(key)[:80]}")
        speaker = _speaker(turn)
        role = ROLES.get(speaker) if speaker is not None else None
        if role is None:
            given = _first(turn, ROLE_FIELDS)
            raise BadRow("unknown-role", f"{name} has the role {given!r:.100}" if given is not None else
                         f"{name} has no role")
        content, calls, thought = _first(turn, CONTENT_FIELDS), self._calls(turn, name, what), self._thought(turn, name)
        if role == "assistant" and isinstance(content, list):
            thought, content = _without_thoughts(content, thought, name)
        if role == "tool" and isinstance(content, (dict, list)) and not (content and all(map(_is_text_part, content))):
            content = as_json_text(self._without_nulls(content))  # a result as data: templates print it as such
        if speaker in _CALLERS and isinstance(content, str) and not calls:
            calls = self._call_text(content, name, what)
            content = "" if calls else content
        if calls and content is None:
            content = ""
        if role != "assistant" and calls:
            raise BadRow("unknown-role", f"{name} is the {role}'s and calls tools")
        said = clean_text(content, name)
        if role == "user" and said.strip().startswith(PLACEHOLDERS) | said.strip().endswith(PLACEHOLDERS):
            raise refused(f"{name}, the placeholder {next(p for p in PLACEHOLDERS if p in said)}", "media")
        if (key := _first_key(turn, TOOLS)) and turn[key]:
            if role != "system":
                raise BadRow("unsupported-field", f"{name}, {key}: tools stand in the record or its system turn")
            self.tools = self.tool_list(turn[key], f"{name}, {key}")
        return Message(role, said, calls, thought, self._label(turn, "name", name),
                       self._label(turn, "tool_call_id", name), self._is_trained(turn, role, name))

    def _is_trained(self, turn: Mapping[str, Any], role: str, name: str) -> bool:
        trained: bool | None = None
        for key in FLAG_FIELDS:
            value = turn.get(key)
            if value is None:
                continue
            if not isinstance(value, (bool, int, float)) or value not in (0, 1):
                raise BadRow("unsupported-field", f"{name}, {key} is {_shown(value)}: only 0 and 1, or false and true, "
                             "can be said of a whole turn")
            if trained is not None and trained != bool(value):
                raise BadRow("unsupported-field", f"{name}, {key} contradicts another field of the turn")
            trained = bool(value)
            if trained and role != "assistant":
                raise BadRow("unsupported-field", f"{name}, {key} asks to train on the {role}'s turn: only assistant "
                             "turns are supervised")
        return trained is not False or role != "assistant"

    def _thought(self, turn: Mapping[str, Any], name: str) -> str | None:
        found = [(key, clean_text(turn[key], f"{name}, {key}")) for key in REASONING if turn.get(key) is not None]
        texts = {text for _, text in found if text}
        if len(texts) > 1:
            raise BadRow("unsupported-field", f"{name} has different thoughts: {', '.join(key for key, _ in found)}")
        return texts.pop() if texts else None

    def _label(self, turn: Mapping[str, Any], key: str, name: str) -> str | None:
        value = turn.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        return clean_text(value, f"{name}, {key}") if value is not None else None

    def _calls(self, turn: Mapping[str, Any], name: str, what: str) -> tuple[ToolCall, ...]:
        value = turn.get("tool_calls")
        if isinstance(value, str):
            value = self.json_text(value, f"{name}, tool_calls") if value.strip() else None
        if isinstance(value, Mapping):
            value = [value]
        if not isinstance(value, list | None):
            raise BadRow("unsupported-field", f"{name}, tool_calls is {kind_of(value)}, not a list of calls")
        calls = list(value or [])
        if turn.get("function_call") is not None:  # OpenAI's older form, one call
            calls.append(turn["function_call"])
        if len(calls) > self._limits.turns:
            raise self._limits.exceeded("turns", f"{name} has {len(calls):,} calls, more than")
        return tuple(self._call(call, f"{name}, call {i}", f"{what}[].tool_calls") for i, call in enumerate(calls, 1))

    def _call_text(self, content: str, name: str, what: str) -> tuple[ToolCall, ...]:
        """The calls that the content of a turn of calls spells in JSON; none where it is other text."""
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            return ()
        calls = value if isinstance(value, list) else [value]
        if not calls or not all(isinstance(call, Mapping) and ("name" in call or "function" in call) for call in calls):
            return ()
        return tuple(self._call(call, f"{name}, call {i}", f"{what}[].tool_calls") for i, call in enumerate(calls, 1))

    def _call(self, call: Any, name: str, path: str) -> ToolCall:
        if isinstance(call, str):
            call = self.json_text(call, name)
        if not isinstance(call, Mapping):
            raise BadRow("unsupported-field", f"{name} is {kind_of(call)}, not an object")
        self.kept |= {f"{path}[].{key}" for key, value in call.items() if key not in CALL_FIELDS and value is not None}
        function = call.get("function", call)
        if isinstance(function, str):  # {"function": "name", "arguments": ...}
            function = {**call, "name": function}
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
            raise BadRow("unsupported-field", f"{name} names no function")
        arguments = function.get("arguments", function.get("parameters"))
        if isinstance(arguments, str):
            spelled = clean_text(arguments, f"{name}, arguments")
            if spelled.lstrip()[:1] in ("{", "["):
                self._limits.check_nesting(_loads(spelled))
        else:
            spelled = as_json_text(self._without_nulls({} if arguments is None else arguments))
        return ToolCall(clean_text(function["name"], f"{name}, name"), clean_text(spelled, f"{name}, arguments"),
                        self._label(call, "id", name))

    def tool_list(self, value: Any, what: str) -> Tools | None:
        """The functions that may be called, in the form of OpenAI's and transformers' tools; ``None`` for none.

        Raises:
            BadRow: it is not a list of functions, nor the JSON text of one.
        """
        if isinstance(value, str):
            value = self.json_text(value, what) if value.strip() else None
        if isinstance(value, Mapping):
            value = [value]
        if not isinstance(value, list | None):
            raise BadRow("unsupported-field", f"{what} is {kind_of(value)}, not a list of functions")
        tools = []
        for number, tool in enumerate(value or [], 1):
            one = self.json_text(tool, f"{what}, number {number}") if isinstance(tool, str) else tool
            one = self._without_nulls(one)
            function = one.get("function", one) if isinstance(one, dict) else None
            if not isinstance(function, dict) or not isinstance(function.get("name"), str):
                raise BadRow("unsupported-field", f"{what}, number {number} describes no function with a name")
            made = one if "function" in one else {"type": "function", "function": one}
            clean_text(as_json_text(made), f"{what}, number {number}")
            tools.append(made)
        return tools or None

    def json_text(self, text: str, what: str) -> Any:
        """The value of JSON text in a column.

        Raises:
            BadRow: it is not JSON, or is nested too deep.
        """
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            python = text.lstrip()[:2] in ("[{", "{'") and "'" in text[:20]
            how = "it looks like what Python prints: write it with json.dumps" if python else str(error)[:200]
            raise BadRow("non-string-content", f"{what} is text and not JSON: {how}") from error
        self._limits.check_nesting(value)
        return value

    def _without_nulls(self, value: Any) -> Any:
        if not self._typed:
            return value
        if isinstance(value, Mapping):
            return {key: self._without_nulls(item) for key, item in value.items() if item is not None}
        return [self._without_nulls(item) for item in value] if isinstance(value, (list, tuple)) else value


def _plain(turn: dict[str, Any]) -> Message | None:
    """The message of a turn that is a role and a text, as nearly all are; ``None`` for others."""
    if len(turn) != 2:
        return None
    speaker, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    role = _PLAIN_ROLES.get(speaker) if isinstance(speaker, str) else None
    if role is None or not isinstance(content, str) or not content.isascii() or "<" in content:
        return None
    return Message(role, content)


def clean_text(value: Any, what: str) -> str:
    """A content as text; a list of text parts is joined, anything else is refused."""
    if isinstance(value, list) and value and all(_is_text_part(part) for part in value):
        value = "".join(part["text"] for part in value)
    if not isinstance(value, str):
        raise BadRow("non-string-content", f"{what} is {kind_of(value)}")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise BadRow("invalid-unicode", f"{what}, character {error.start}") from error
    return value


def refused(field: str, what: str) -> BadRow:
    """The problem of a record with a field that cannot be honoured."""
    if what == "media":
        return BadRow("not-text", f"{field}: siftune trains and scores text alone")
    return BadRow("unsupported-field", f"{field} holds {what}, which siftune does not follow")


def is_turns(value: Any) -> bool:
    """Whether a side is a list of turns rather than text or text parts."""
    return isinstance(value, list) and not all(_is_text_part(part) for part in value)


def kind_of(value: Any) -> str:
    """What a value is, in the words of JSON."""
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", dict: "an object",
             str: "text"}
    if isinstance(value, list):
        types = sorted({str(part.get("type"))[:40] for part in value if isinstance(part, Mapping)} - {"text"})
        return f"a list with parts of type {', '.join(types[:5])}" if types else "a list"
    return names.get(type(value), type(value).__name__)


def as_json_text(value: Any) -> str:
    """A value as JSON text; what JSON has no type for, as text."""
    return json.dumps(value, ensure_ascii=False, default=str)


def _speaker(turn: Mapping[str, Any]) -> str | None:
    speaker = _first(turn, ROLE_FIELDS)
    return speaker.strip().lower() if isinstance(speaker, str) else None


def _first_key(turn: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    return next((key for key in keys if turn.get(key) is not None), None)


def _first(turn: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    key = _first_key(turn, keys)
    return turn[key] if key is not None else None


def _without_thoughts(parts: list[Any], thought: str | None, name: str) -> tuple[str | None, list[Any]]:
    """Parts of type ``thinking`` or ``reasoning`` as the turn's thought, and the rest."""
    rest = []
    for part in parts:
        if isinstance(part, Mapping) and part.get("type") in ("thinking", "reasoning"):
            text = clean_text(part.get("thinking", part.get("reasoning", part.get("text"))), f"{name}, the thought")
            if thought is not None:
                raise BadRow("unsupported-field", f"{name} has two thoughts")
            thought = text or None
        else:
            rest.append(part)
    return thought, rest


def _is_text_part(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type", "text") == "text" and isinstance(part.get("text"), str)


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _shown(value: Any) -> str:
    return repr(value)[:60] if isinstance(value, (str, int, float)) else kind_of(value)
