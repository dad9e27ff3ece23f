"""The rows of a pool, a target file or a test file, and what rendering makes of them.

A :class:`Row` keeps the raw record untouched beside its normalised messages, so that a selected subset is written
exactly as it came. Rendering turns the messages into token ids and a loss mask once, and features, training and
evaluation all read those same ids and masks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import numpy as np

from siftune.data.rendered import Rendered, cut_of, lengths_of, supervised_of, taken


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a function by the assistant.

    Attributes:
        name: The function's name.
        arguments: Its arguments as JSON text, character for character where the data has text.
        id: What the result refers to, where the data names it.
    """

    name: str
    arguments: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One turn.

    Attributes:
        role: ``system``, ``user``, ``assistant`` or ``tool``.
        content: Its text; empty where an assistant turn only calls tools.
        tool_calls: What the assistant calls.
        reasoning: The assistant's thought before the content, where the data keeps it apart.
        name: Name of the speaker or the tool.
        tool_call_id: The call that a tool turn answers.
        train: Whether an assistant turn is supervised; the data can say that one is not. True of all other turns.
    """

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str | None = None
    name: str | None = None
    tool_call_id: str | None = None
    train: bool = True

    @property
    def said(self) -> str:
        """Content and tool calls as text: what the turn says, without the thought."""
        if not self.tool_calls:
            return self.content
        calls = (f"{call.name} {call.arguments}" for call in self.tool_calls)
        return "\n".join([self.content, *calls] if self.content else calls)

    @property
    def text(self) -> str:
        """Thought, content and tool calls as text."""
        return f"{self.reasoning}\n{self.said}" if self.reasoning else self.said


Tools = list[dict[str, Any]]
"""Descriptions of functions that may be called: ``{"type": "function", "function": {"name", ...}}`` each."""


def content_hash(messages: Sequence[Message], tools: Tools | None = None) -> str:
    """BLAKE2b (128 bits, hex) of a conversation; equal only for those that are equal exactly.

    Roles and contents enter, and where there are any: tools, tool calls, thoughts, names, and which turns are not
    supervised.
    """
    return hash_of(content_of(messages, tools))


def content_of(messages: Sequence[Message], tools: Tools | None = None) -> bytes:
    """All of a conversation as JSON, which :func:`conversation_of` reads: what :func:`content_hash` is of."""
    content: list[Any] = [_as_json(message) for message in messages]
    if tools:
        content.append({"tools": tools})
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass")


def hash_of(content: bytes) -> str:
    """The :func:`content_hash` of what :func:`content_of` says."""
    return blake2b(content, digest_size=16).hexdigest()


def conversation_of(content: bytes) -> tuple[tuple[Message, ...], Tools | None]:
    """The messages and tools that :func:`content_of` was asked for."""
    messages, tools = [], None
    for one in json.loads(content):
        if isinstance(one, dict):
            tools = one["tools"]
            continue
        more = one[2] if len(one) > 2 else _NOTHING
        calls = tuple(ToolCall(*call) for call in more.get("tool_calls", ()))
        messages.append(Message(one[0], one[1], calls, more.get("reasoning"), more.get("name"),
                                more.get("tool_call_id"), more.get("train", True)))
    return tuple(messages), tools


_NOTHING: dict[str, Any] = {}


def _as_json(message: Message) -> list[Any]:
    more: dict[str, Any] = {}
    if message.reasoning is not None:
        more["reasoning"] = message.reasoning
    if message.name is not None:
        more["name"] = message.name
    if message.tool_call_id is not None:
        more["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        more["tool_calls"] = [[call.name, call.arguments, call.id] for call in message.tool_calls]
    if not message.train:
        more["train"] = False
    return [message.role, message.content, more] if more else [message.role, message.content]


@dataclass(frozen=True, slots=True)
class Row:
    """One example.

    Attributes:
        id: Stable and unique within its pool: the row's own id, or ``<source>:<index>:<content hash>``.
        source: Name of the file or data set it came from (without folder and ending).
        where: ``file:line`` (or ``file:row``) for messages to the user.
        messages: The normalised conversation.
        tools: What the assistant may call, where the record says it.
        raw: The original record as one line of JSON; for a JSONL file the very characters of its line.
        content_hash: BLAKE2 of messages and tools (exact content), hex.
        format: One of :data:`siftune.data.formats.FORMATS`, or ``columns``.
        subtask: The target's subtask, where the file names one.
        group: The pool row's group (stratum), where the file names one; the source otherwise.
    """

    id: str
    source: str
    where: str
    messages: tuple[Message, ...]
    raw: str
    content_hash: str
    format: str
    subtask: str | None = None
    group: str | None = None
    tools: Tools | None = None


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that was left out: which, where it stood, and why."""

    id: str
    source: str
    where: str
    reason: str
    detail: str = ""


def column(rows: Sequence[Row], name: str) -> list[Any]:
    """One attribute of all rows; of rows that are kept in a file without making the rows."""
    read = getattr(rows, "column", None)
    return [getattr(row, name) for row in rows] if read is None else read(name)


def groups_of(rows: Sequence[Row]) -> list[str]:
    """The group of each row, or its source where it has none."""
    return [group or source for group, source in zip(column(rows, "group"), column(rows, "source"), strict=True)]


@dataclass(slots=True)
class Examples:
    """Usable rows with what rendering made of them, in file order; ``rows[i]`` belongs to ``rendered[i]``.

    Attributes:
        dropped: the rows that cannot be trained on, and why.
        unmatched_turns: assistant turns left unsupervised because the chat template leaves them out.
        special_tokens_in_content: rows whose text spells a special token of the tokenizer, such as ``<|im_end|>``.
    """

    rows: Sequence[Row]
    rendered: Sequence[Rendered]
    dropped: list[Dropped] = field(default_factory=list)
    unmatched_turns: int = 0
    special_tokens_in_content: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ids(self) -> list[str]:
        return column(self.rows, "id")

    @property
    def tokens(self) -> np.ndarray:
        """int64 [N]: tokens a row costs in training (prompt and response, after truncation)."""
        return lengths_of(self.rendered)

    @property
    def supervised(self) -> np.ndarray:
        """int64 [N]: how many of them are supervised."""
        return supervised_of(self.rendered)

    @property
    def cut_tokens(self) -> np.ndarray:
        """int64 [N]: how many truncation has removed."""
        return cut_of(self.rendered)

    @property
    def truncated(self) -> int:
        return int(np.count_nonzero(self.cut_tokens))

    def take(self, places: Sequence[int] | np.ndarray) -> Examples:
        """The rows at some places, in that order; what is counted stays that of all."""
        where = np.asarray(places, dtype=np.int64)
        return replace(self, rows=taken(self.rows, where), rendered=taken(self.rendered, where))
