"""Hypothesis strategies for what people put into data files: records, columns, limits, and damaged lines.

They are made of the names that siftune knows, of values of every kind and of the mistakes that were met in real files,
so that a campaign reaches the code behind the first refusal.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from siftune.data import columns
from siftune.data.turns import ROLES

TEXTS = st.one_of(
    st.text(max_size=20),  # halves of surrogate pairs among them
    st.sampled_from(["", " ", "4", "<image>\nWhat?", "[]", "{}", "[{", "null", '[["a", "b"]]', "\ud83d", "\x00", "```",
                     '[{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]',
                     '{"name": "f", "arguments": {"x": 1}}', '[{"name": "f"}]', "[{'role': 'user'}]", "<|im_end|>"]))
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.floats(), TEXTS)
VALUES = st.recursive(SCALARS, lambda inner: st.one_of(
    st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)), max_leaves=6)

CALLS = st.one_of(VALUES, st.fixed_dictionaries({}, optional={
    "id": SCALARS, "type": SCALARS, "index": SCALARS, "name": TEXTS, "arguments": VALUES, "parameters": VALUES,
    "function": st.one_of(VALUES, st.fixed_dictionaries({"name": TEXTS}, optional={"arguments": VALUES})),
    "other": VALUES}))
TOOL_LISTS = st.one_of(VALUES, st.lists(st.one_of(VALUES, st.fixed_dictionaries(
    {"name": TEXTS}, optional={"description": VALUES, "parameters": VALUES, "type": VALUES}), st.fixed_dictionaries(
        {"type": st.just("function"), "function": st.fixed_dictionaries({"name": TEXTS})})), max_size=3))
PARTS = st.fixed_dictionaries({"type": st.sampled_from(["text", "thinking", "image_url", "reasoning"])},
                              optional={"text": TEXTS, "thinking": TEXTS})
CONTENTS = st.one_of(TEXTS, VALUES, st.lists(st.one_of(VALUES, PARTS), max_size=2))
TURNS = st.one_of(VALUES, st.fixed_dictionaries(
    {"role": st.sampled_from(sorted(ROLES)), "content": CONTENTS}, optional={
        "tool_calls": st.lists(CALLS, max_size=2), "function_call": CALLS, "tools": TOOL_LISTS, "name": SCALARS,
        "tool_call_id": SCALARS, "image": VALUES, "extra": VALUES,
        **dict.fromkeys(columns.FLAG_FIELDS, SCALARS), **dict.fromkeys(columns.REASONING, CONTENTS)}),
    st.fixed_dictionaries({"from": st.sampled_from(sorted(ROLES)), "value": CONTENTS}))
CONVERSATIONS = st.one_of(VALUES, st.lists(TURNS, max_size=5), st.lists(TURNS, max_size=3).map(json.dumps))
HISTORIES = st.one_of(VALUES, st.lists(st.lists(TEXTS, min_size=2, max_size=2), max_size=3),
                      st.lists(TURNS, max_size=2))

_OF_PART = {"messages": CONVERSATIONS, "tools": TOOL_LISTS, "history": HISTORIES, "prompt": CONVERSATIONS,
            "completion": CONVERSATIONS}


@st.composite
def records(draw: st.DrawFn) -> dict[str, Any]:
    """A record with most of the columns of one format, a few of all others, and some that nobody knows."""
    chosen = draw(st.sampled_from(list(columns.FORMATS.values())))
    record: dict[str, Any] = {}
    for part, names in chosen.columns.items():
        if part in chosen.needs or draw(st.integers(0, 3)) == 0:
            record[draw(st.sampled_from(names))] = draw(st.one_of(_OF_PART.get(part, TEXTS), TEXTS))
    others = sorted({name for one in columns.FORMATS.values() for names in one.columns.values() for name in names}
                    | set(columns.REFUSED) | {"id", "group", "subtask", "text", "chosen", "rejected", "train"})
    for name in draw(st.lists(st.one_of(st.sampled_from(others), TEXTS), max_size=2)):
        record[name] = draw(st.one_of(VALUES, CONVERSATIONS))
    return record


@st.composite
def good_records(draw: st.DrawFn) -> dict[str, Any]:
    """A record that can be used, with tool calls, thoughts and flags in a form that some data set has."""
    text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
        lambda t: bool(t.strip()) and not t.strip().startswith(columns.PLACEHOLDERS))
    turns: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(1, 3))):
        turns.append({"role": "user", "content": draw(text)})
        answer: dict[str, Any] = {"role": "assistant", "content": draw(text)}
        if draw(st.booleans()):
            answer["tool_calls"] = [{"type": "function", "function": {"name": "f", "arguments": {"x": draw(text)}}}]
        if draw(st.booleans()):
            answer[draw(st.sampled_from(columns.REASONING))] = draw(text)
        turns.append(answer)
    if draw(st.booleans()) and len(turns) > 2:
        turns[1]["weight"] = 0
    return {"messages": turns, **draw(st.sampled_from(({}, {"tools": [{"name": "f", "parameters": {}}]})))}


LINES = st.one_of(
    records().map(lambda record: json.dumps(record).encode()),
    records().map(lambda record: json.dumps(record).encode()[:-1]),
    st.binary(max_size=40),
    VALUES.map(lambda value: json.dumps(value).encode()),
    st.sampled_from([b"", b" ", b"[", b"]", b"\xff\xfe", b"\xef\xbb\xbf{}", b'{"prompt": "\xe9"}', b"{" * 300]))
"""Lines of a file, most of them JSON."""

COLUMN_TEXTS = st.one_of(TEXTS, st.lists(st.tuples(
    st.one_of(st.sampled_from(sorted(columns.PARTS)), TEXTS),
    st.one_of(st.sampled_from(["question", "a b", ""]), TEXTS)).map("=".join), max_size=3).map(",".join))
"""Values of ``--columns``."""

LIMIT_TEXTS = st.one_of(TEXTS, st.tuples(
    st.sampled_from(["line", "row", "turns", "nesting", "expansion", "lime"]),
    st.sampled_from(["1", "0", "-1", "20m", "1e3", "", "9" * 30, "5kk"])).map("=".join))
"""Values of ``--limit``."""
