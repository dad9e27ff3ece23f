"""Every column and every field of a turn that is known, in one place, and what becomes of it.

A field of a record is *used* (it is part of what is trained on, or of the row's id, subtask or group), *kept* (it
stays in the record, is written back with it, and ``siftune inspect`` lists it), or *refused* (the row cannot be used,
and the message names the field). Fields that are not known are kept. Nulls are no values: tables merged from several
sources carry each other's columns as nulls.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from siftune._common.errors import ConfigError
from siftune._common.registry import unknown_name

Record = Mapping[str, Any]

FLAG = "--columns"

PARTS = {
    "messages": "the whole conversation, a list of turns",
    "prompt": "what the user says, text or a list of turns",
    "input": "what stands below the prompt in the same turn",
    "completion": "what the assistant answers, text or a list of turns",
    "system": "the system message",
    "history": "earlier exchanges, a list of [prompt, answer]",
    "tools": "the functions that may be called",
    "reasoning": "the thought before the completion",
}
"""What a column can be, for :data:`FLAG`."""

SYSTEM = ("system", "system_prompt", "system_message")
TOOLS = ("tools", "functions")
REASONING = ("reasoning_content", "thinking", "reasoning")

_ANY: Mapping[str, tuple[str, ...]] = {"system": SYSTEM, "tools": TOOLS}
_PAIR: Mapping[str, tuple[str, ...]] = {**_ANY, "history": ("history",), "reasoning": REASONING}


@dataclass(frozen=True, slots=True)
class Format:
    """A shape of records.

    Attributes:
        name: What the user calls it.
        columns: For each part the columns that can hold it; the first one with a value does.
        needs: The parts that a record must have.
        refused: Columns that change what the others mean, with what they hold.
    """

    name: str
    columns: Mapping[str, tuple[str, ...]]
    needs: tuple[str, ...] = ("prompt", "completion")
    refused: Mapping[str, str] = field(default_factory=dict)

    def column(self, part: str, record: Record) -> str | None:
        """The column that holds a part in this record, or ``None``."""
        for name in self.columns.get(part, ()):
            if record.get(name) is not None:
                return name
        return None

    def fits(self, record: Record) -> bool:
        """Whether the record has a column, with or without a value, for all that the format needs."""
        return all(any(name in record for name in self.columns[part]) for part in self.needs)

    def is_filled(self, record: Record) -> bool:
        """Whether there is something in them: an empty conversation or answer is as good as none."""
        for part in self.needs:
            name = self.column(part, record)
            if name is None or (part != "prompt" and record[name] in ("", [])):
                return False
        return True


FORMATS: Mapping[str, Format] = {made.name: made for made in (
    Format("messages", {"messages": ("messages",), **_ANY}, ("messages",)),
    Format("sharegpt", {"messages": ("conversations", "conversation"), **_ANY}, ("messages",)),
    Format("alpaca", {"prompt": ("instruction",), "input": ("input", "context"), "completion": ("output", "response"),
                      **_PAIR}),
    Format("prompt-completion", {"prompt": ("prompt",), "completion": ("completion", "response"), **_PAIR}),
    Format("question-answer", {"prompt": ("question",), "input": ("context",), "completion": ("answer", "response"),
                               **_PAIR}, refused=dict.fromkeys(("choices", "options"), "the answers to choose from")),
    Format("query-response", {"prompt": ("query",), "completion": ("response", "answer"), **_PAIR}),
    Format("input-output", {"prompt": ("input", "inputs"), "completion": ("output", "outputs", "target", "targets"),
                            **_PAIR}),
)}
"""The formats, in the order in which they are tried: a richer one wins over a plainer one."""

COLUMNS = "columns"
"""Name of the format of records whose columns the user named."""

MEDIA = ("image", "images", "image_path", "video", "videos", "audio", "audios", "pixel_values")
PLACEHOLDERS = ("<image>", "<video>", "<audio>")

REFUSED: Mapping[str, str] = {
    **dict.fromkeys(MEDIA, "media"),
    "chat_template_kwargs": "options of the chat template",
    "loss_mask": "a mask over turns or tokens",
}
"""Columns that make a row unusable where they hold something, in whatever format, with what they hold."""

ROLE_FIELDS = ("role", "from")
CONTENT_FIELDS = ("content", "value")
FLAG_FIELDS = ("weight", "loss", "train", "loss_mask")
TURN_FIELDS = frozenset((*ROLE_FIELDS, *CONTENT_FIELDS, *FLAG_FIELDS, *REASONING, *TOOLS, "tool_calls",
                         "function_call", "name", "tool_call_id"))
"""Fields of a turn that are used."""

REFUSED_IN_TURN: Mapping[str, str] = {
    **dict.fromkeys(MEDIA, "media"),
    **dict.fromkeys(("train_detail", "training_detail"), "a mask over parts of the turn"),
}

CALL_FIELDS = frozenset(("id", "type", "index", "function", "name", "arguments", "parameters"))
"""Fields of a tool call that are used, or say nothing that its place does not."""


def named_columns(given: Sequence[str]) -> Format | None:
    """The format that the user describes, as ``PART=COLUMN`` texts, several in one with commas; ``None`` for none.

    ``PART=`` alone says that no column holds the part.

    Raises:
        ConfigError: not of that form, an unknown part, a part twice, or neither messages nor prompt and completion.
    """
    columns: dict[str, tuple[str, ...]] = {}
    for text in given:
        for pair in re.split(rf",(?=\s{{0,8}}(?:{'|'.join(PARTS)})=)", text):
            part, equals, column = (piece.strip() for piece in pair.partition("="))
            if not equals:
                raise ConfigError(f"{pair!r} names no column", where=FLAG,
                                  hint=f"write PART=COLUMN, such as {FLAG} prompt=question,completion=answer")
            if part not in PARTS:
                raise unknown_name("part of a row", part, PARTS, flag=FLAG)
            if part in columns:
                raise ConfigError(f"two columns are named for {part}", where=FLAG, hint="name one")
            columns[part] = (column,) if column else ()
    if not columns:
        return None
    needs = ("messages",) if columns.get("messages") else ("prompt", "completion")
    if not all(columns.get(part) for part in needs):
        raise ConfigError("the columns named do not make a conversation", where=FLAG,
                          why=f"Named are {', '.join(columns)}.",
                          hint=f"name both sides, such as {FLAG} prompt=question,completion=answer, or messages=COLUMN")
    taken = {name for names in columns.values() for name in names}
    shared = _ANY if needs == ("messages",) else _PAIR
    usual = {part: tuple(name for name in names if name not in taken) for part, names in shared.items()
             if part not in columns}
    return Format(COLUMNS, {**usual, **columns}, needs)


def keys_of(record: Record) -> str:
    """The keys of a record for a message to the user."""
    keys = [str(key)[:80] for key in record]
    return ", ".join(keys[:12]) + (", ..." if len(keys) > 12 else "") if keys else "(none)"


_SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")


def advice(record: Record) -> str | None:
    """What a record in no known format seems to be, and what to do with it."""
    keys = {str(key) for key, value in record.items() if value is not None}
    lists = {key for key, value in record.items() if isinstance(value, list) and value and isinstance(value[0], dict)}
    if splits := [name for name in _SPLITS if name in lists]:
        return (f"the file holds several splits in one object: save the one you want as a file of its own "
                f"(jq -c '.{splits[0]}[]' FILE > {splits[0]}.jsonl)")
    if record and all(isinstance(value, dict) for value in record.values()) and _same_numbers(list(record.values())):
        return ("this is a table by columns, as pandas writes it: write it by rows with "
                "df.to_json(FILE, orient='records', lines=True)")
    if {"chosen", "rejected"} <= keys:
        prompt = f"prompt={'prompt' if 'prompt' in keys else 'COLUMN'},"
        return f"these are preference pairs: to train on the chosen answers, pass {FLAG} {prompt}completion=chosen"
    if "input_ids" in keys:
        return "these rows are tokenised already: give them as text, since siftune renders and masks them itself"
    if "text" in keys and len(keys) <= 3:
        return ("plain text says nothing about which part is to be learned: split it into prompt and completion, or "
                "messages")
    return None


def _same_numbers(columns: list[Any]) -> bool:
    first = list(columns[0])
    return bool(first) and all(str(key).isdecimal() for key in first[:3]) and all(
        list(column) == first for column in columns[1:])
