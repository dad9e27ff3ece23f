"""How a record in one of the known formats, or with columns that the user named, becomes one conversation.

=====================  =================================================================================
``messages``           ``messages: [{role, content}]``, contents as text or as ``[{"type": "text", "text"}]``
``sharegpt``           ``conversations: [{from, value}]``
``alpaca``             ``instruction``, optional ``input``, ``output`` (also Dolly's ``context``, ``response``)
``prompt-completion``  ``prompt`` with ``completion`` or ``response``, each text or a list of messages
``question-answer``    ``question``, optional ``context``, ``answer`` or ``response``
``query-response``     ``query``, ``response`` (ms-swift), optional ``history``
``input-output``       ``input``, ``output`` (also ``inputs``, ``targets``)
=====================  =================================================================================

The columns of each are in :mod:`siftune.data.columns`. A top-level ``system`` text becomes the system turn, ``tools``
what may be called. Contents are kept character for character.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from siftune.data import columns
from siftune.data.columns import REFUSED, Format, Record, keys_of
from siftune.data.limits import Limits
from siftune.data.problems import BadRow
from siftune.data.rows import Message, Tools
from siftune.data.turns import Turns, clean_text, is_turns, kind_of, refused

FORMATS = tuple(columns.FORMATS)
"""Names of the formats, in the order in which they are tried."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a record says.

    Attributes:
        messages: The turns.
        tools: What may be called.
        used, kept: Its fields with a value that went into the conversation, and the others; fields of turns as
            ``messages[].weight``.
    """

    messages: tuple[Message, ...]
    tools: Tools | None
    used: frozenset[str]
    kept: frozenset[str]


def detect(record: Record, named: Format | None = None) -> Format | None:
    """The format of a record by the columns it has, or ``None``; a richer format wins over a plainer one.

    Columns with something in them count first: tables that were merged from several formats carry the other formats'
    columns as nulls. Columns that the user ``named`` win over the known formats.
    """
    filled = {key: value for key, value in record.items() if value is not None}
    formats = [*([named] if named else []), *columns.FORMATS.values()]
    return (next((one for one in formats if one.is_filled(filled)), None)
            or next((one for one in formats if one.fits(filled)), None)
            or next((one for one in formats if one.fits(record)), None))


def read_conversation(record: Record, format: str | Format, limits: Limits | None = None, *,
                      typed: bool = False) -> Conversation:
    """The conversation of a record.

    Args:
        record: The parsed record.
        format: One of :data:`FORMATS`, or one made of columns that the user named.
        limits: What is too large.
        typed: Whether it comes from a table with types; see :class:`~siftune.data.turns.Turns`.

    Raises:
        BadRow: the record does not have that format, a role is unknown, a content is not text, there is no
            assistant turn or an empty one, a field asks for what cannot be done, or a limit is exceeded.
    """
    limits = limits or Limits()
    found = columns.FORMATS[format] if isinstance(format, str) else format
    if not found.fits(record):
        raise BadRow("unknown-format", f"expected {found.name}, found the keys {keys_of(record)}")
    for name, what in (*REFUSED.items(), *found.refused.items()):
        if _holds_something(record.get(name)) and not any(name in names for names in found.columns.values()):
            raise refused(name, what)
    reader = _Reader(record, found, Turns(limits, typed=typed))
    messages = tuple(reader.messages())
    tools = reader.tools()
    _check(messages, limits)
    used = reader.used | reader.turns.used
    kept = {str(key)[:80] for key, value in record.items() if value is not None and key not in reader.used}
    return Conversation(messages, tools, frozenset(used), frozenset(kept | reader.turns.kept))


class _Reader:
    """One record read by the columns of a format."""

    def __init__(self, record: Record, format: Format, turns: Turns):
        self._record, self._format, self.turns = record, format, turns
        self.used: set[str] = set()

    def messages(self) -> list[Message]:
        name = self._format.column("messages", self._record)
        if self._format.needs == ("messages",):
            name = name or self._format.columns["messages"][0]
            self.used.add(name)
            messages = self.turns.read(self._record.get(name), name)
        else:
            messages = [*self._history(), *self._exchange()]
        return self._with_system(messages)

    def tools(self) -> Tools | None:
        name = self._take("tools")
        found = self.turns.tool_list(self._record[name], name) if name else None
        if found and self.turns.tools and found != self.turns.tools:
            raise BadRow("unsupported-field", f"{name} and the system turn name different tools")
        return found or self.turns.tools

    def _take(self, part: str) -> str | None:
        """The column that holds a part, from now on a used one; ``None`` where there is none or an empty text."""
        name = self._format.column(part, self._record)
        if name is not None:
            self.used.add(name)
        return name if name is not None and self._record[name] not in ("", []) else None

    def _history(self) -> list[Message]:
        name = self._take("history")
        if name is None:
            return []
        value = self._record[name]
        if isinstance(value, str):
            value = self.turns.json_text(value, name)
        if is_turns(value) and all(isinstance(turn, dict) for turn in value):
            return self.turns.read(value, name)
        if not isinstance(value, list):
            raise BadRow("non-string-content", f"{name} is {kind_of(value)}, not a list of pairs")
        found = []
        for number, pair in enumerate(value, 1):
            what = f"{name}, pair {number}"
            if not isinstance(pair, list) or len(pair) != 2:
                raise BadRow("non-string-content", f"{what} is {kind_of(pair)}, not a list of two texts")
            found += [Message("user", clean_text(pair[0], what)), Message("assistant", clean_text(pair[1], what))]
        return found

    def _exchange(self) -> list[Message]:
        prompts = self._side("prompt", "user")
        if name := self._take("input"):
            extra = clean_text(self._record[name], name)
            if prompts[-1:] and prompts[-1].role != "user":
                raise BadRow("non-string-content", f"{name} stands beside a prompt that does not end with the user")
            # As LLaMA-Factory joins them, so that the text which is scored is the text which its users train on.
            prompts[-1] = dataclasses.replace(prompts[-1], content=f"{prompts[-1].content}\n{extra}")
        answers = self._side("completion", "assistant")
        if name := self._take("reasoning"):
            thought = clean_text(self._record[name], name)
            if len(answers) != 1 or (answers[0].reasoning or thought) != thought:
                raise BadRow("unsupported-field", f"{name} stands beside a completion with thoughts or several turns")
            answers = [dataclasses.replace(answers[0], reasoning=thought or None)]
        return [*prompts, *answers]

    def _side(self, part: str, role: str) -> list[Message]:
        """A prompt or completion: text of that role, or a list of messages."""
        name = self._format.column(part, self._record) or self._format.columns[part][0]
        self.used.add(name)
        value: Any = self._record.get(name)
        if is_turns(value):
            return self.turns.read(value, name)
        return [Message(role, clean_text(value, name))]

    def _with_system(self, messages: list[Message]) -> list[Message]:
        name = self._take("system")
        if name is None:
            return messages
        text = clean_text(self._record[name], name)
        own = [message.content for message in messages if message.role == "system"]
        if own and own[0].strip() != text.strip():
            raise BadRow("unsupported-field", f"{name} and the conversation's own system turn say different things")
        return messages if own or not text else [Message("system", text), *messages]


def _check(messages: tuple[Message, ...], limits: Limits) -> None:
    answers = [message for message in messages if message.role == "assistant"]
    if not answers:
        raise BadRow("no-assistant-turn", f"the roles are {_roles(messages)}" if messages else
                     "the conversation is empty")
    if any(not answer.content.strip() and not answer.tool_calls for answer in answers):
        raise BadRow("empty-response")
    if not any(answer.train for answer in answers):
        raise BadRow("nothing-to-supervise", "the data says of every assistant turn that it is not trained on")
    characters = sum(len(message.text) for message in messages)
    if characters > limits.row:
        raise limits.exceeded("row", f"the conversation has {characters:,} characters, more than")
    if len(messages) > limits.turns:
        raise limits.exceeded("turns", f"the conversation has {len(messages):,} turns, more than")


def _roles(messages: tuple[Message, ...]) -> str:
    return ", ".join(message.role for message in messages[:12]) + (", ..." if len(messages) > 12 else "")


def _holds_something(value: Any) -> bool:
    try:
        return bool(value)
    except ValueError:  # an array of a table
        return True
