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

# What people write into settings -------------------------------------------------------------------------------------

_WORDS = ["less", "less.adam", "adam", "projection_dim", "warmup_epochs", "top-k", "on_taken", "round-robin", "signals",
          "fusion", "lesss", "budget", "pool", "seed", "own", "set", "quotas", "strata", "method", "from", "model"]
_VALUE_TEXTS = ["1", "0", "-1", "1e999", "nan", ".inf", "true", "null", "~", "2024-01-01", "2024-13-45", "[1, 2]", "[",
                "{a: 1}", "!!python/object:os.system x", "!!float", "!!binary @", "&a [*a]", "*a", "'", '"\\ud800"',
                "9" * 400, "1:1:1", "0x1", "0o7", "a\x1b[31mb", "\u202e", "none", "papr", "advance", "5%", "20ktok",
                "..", "1..2", "% 5"]
SET_TEXTS = st.one_of(TEXTS, st.tuples(
    st.one_of(st.sampled_from(_WORDS), TEXTS), st.one_of(st.sampled_from(_VALUE_TEXTS), TEXTS)).map("=".join))
"""Values of ``--set``."""

QUOTA_TEXTS = st.one_of(TEXTS, st.tuples(
    st.one_of(st.sampled_from(["math", "chat", "a=b", ""]), TEXTS), st.sampled_from(["=", "==", ""]),
    st.one_of(st.sampled_from(_VALUE_TEXTS), TEXTS), st.sampled_from(["..", "...", "."]),
    st.one_of(st.sampled_from(_VALUE_TEXTS), TEXTS)).map("".join))
"""Values of ``--quota``."""

BUDGET_TEXTS = st.one_of(TEXTS, st.sampled_from(_VALUE_TEXTS), st.integers(-3, 10**30).map(str), st.tuples(
    st.floats().map(str), st.sampled_from(["", " ", "  k", "%", "ktok", "tokens", "rows", "M tok"])).map("".join))
"""Values of ``--budget``."""

_YAML_SCALARS = st.one_of(st.sampled_from(_VALUE_TEXTS), SCALARS.map(repr))
YAML_TEXTS = st.one_of(
    st.text(max_size=60),
    st.lists(st.tuples(st.one_of(st.sampled_from([*_WORDS, "targets", "methods", "budgets", "baselines", "ablations",
                                                  "grid", "steps", "seeds", "headline", "train_models"]), TEXTS),
                       _YAML_SCALARS).map(": ".join), max_size=5).map("\n".join),
    st.integers(1, 400).map(lambda n: "a: " + "[" * n + "]" * n),
    st.integers(1, 12).map(lambda n: "a0: &a0 [x, x, x, x, x, x, x, x]\n" + "\n".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]" for i in range(1, n))),
    st.binary(max_size=30).map(lambda raw: raw.decode("latin-1")))
"""Files of settings."""

SETTINGS = st.dictionaries(st.one_of(st.sampled_from(_WORDS), TEXTS), VALUES, max_size=4)
"""What a program gives by name."""

STUDIES = st.fixed_dictionaries({}, optional={
    "pool": st.one_of(VALUES, st.just(["pool.jsonl"])), "methods": st.one_of(VALUES, st.just(["bm25"])),
    "model": VALUES,
    "targets": st.one_of(VALUES, st.lists(st.one_of(VALUES, st.fixed_dictionaries(
        {"name": SCALARS}, optional={"target": VALUES, "test": VALUES, "more": VALUES})), max_size=2)),
    "budgets": VALUES, "seeds": VALUES, "headline": VALUES, "headline_seeds": VALUES, "baselines": VALUES,
    "train_models": VALUES, "deciles": VALUES, "steps": VALUES, "ablations": VALUES, "output_dir": VALUES,
    "less": VALUES, "grid": st.one_of(VALUES, st.dictionaries(
        st.one_of(st.sampled_from([*_WORDS, "on_taken", "round-robin", "round-robin.on_taken"]), TEXTS),
        st.one_of(VALUES, st.lists(VALUES, max_size=3)), max_size=3))})
"""What stands in a study's file."""

# Templates ------------------------------------------------------------------------------------------------------------

_EXPRESSIONS = st.recursive(
    st.sampled_from(["'a'", "2", "messages", "m.content", "m['role']", "m", "x.y", "bos_token", "''", "range(9)",
                     "none", "loop.index0", "tools", "'%s'", "messages[0]['content']", "99999"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([" + ", " ~ ", " * ", " ** ", " / ", " % ", " in ", " == ", " - "]), inner
                  ).map("".join),
        st.tuples(inner, st.sampled_from(["|trim", "|tojson", "|length", "|join", "|center(99)", "|list", "|upper",
                                          "|nosuch", ".strip()", ".split('a')", "[0]", "[::-1]", "|replace('a', 'bb')"])
                  ).map("".join),
        inner.map(lambda text: f"raise_exception({text})"), inner.map(lambda text: f"({text})")), max_leaves=4)
_STATEMENTS = st.recursive(
    st.one_of(_EXPRESSIONS.map(lambda text: "{{ " + text + " }}"), st.sampled_from(
        ["text", "{% if %}", "{%", "{{", "{# x #}", "\ud800", "{% include 'x' %}", "{% import 'os' as os %}", "\x00"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map("".join),
        st.tuples(_EXPRESSIONS, inner).map(lambda t: f"{{% if {t[0]} %}}{t[1]}{{% endif %}}"),
        st.tuples(st.one_of(st.just("messages"), _EXPRESSIONS), inner).map(
            lambda t: f"{{% for m in {t[0]} %}}{t[1]}{{% endfor %}}"),
        st.tuples(_EXPRESSIONS, inner).map(lambda t: f"{{% set x = {t[0]} %}}{t[1]}"),
        inner.map(lambda text: f"{{% generation %}}{text}{{% endgeneration %}}"),
        inner.map(lambda text: f"{{% macro f(n) %}}{text}{{{{ f(n) }}}}{{% endmacro %}}{{{{ f(1) }}}}")), max_leaves=8)
TEMPLATES = st.one_of(_STATEMENTS, _STATEMENTS.map(
    lambda text: "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}" + text
    + "{% endfor %}"), VALUES)
"""Chat templates, most of which parse."""

# Files of a run -------------------------------------------------------------------------------------------------------


@st.composite
def damaged(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value with a few of its parts replaced, removed or added."""
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, 3))):
        holder, keys = None, value
        while isinstance(keys, dict | list) and keys and (holder is None or draw(st.integers(0, 3))):
            holder = keys
            place = draw(st.sampled_from(sorted(holder))) if isinstance(holder, dict) else draw(
                st.integers(0, len(holder) - 1))
            keys = holder[place]
        if holder is None:
            return draw(VALUES)
        kind = draw(st.integers(0, 3))
        if kind == 0 and isinstance(holder, dict):
            holder.pop(place)
        elif kind == 1 and isinstance(holder, dict):
            holder[draw(TEXTS)] = draw(VALUES)
        else:
            holder[place] = draw(st.one_of(VALUES, st.integers(-(2**70), 2**70), st.just([[]] * 3)))
    return value


def json_files(value: Any) -> st.SearchStrategy[bytes]:
    """The bytes of a JSON file: a damaged value, or damaged bytes."""
    whole = json.dumps(value).encode()
    return st.one_of(
        damaged(value).map(lambda found: json.dumps(found).encode()),
        st.tuples(st.integers(0, len(whole)), st.binary(max_size=8)).map(lambda t: whole[:t[0]] + t[1] + whole[t[0]:]),
        st.integers(0, len(whole)).map(lambda n: whole[:n]), st.binary(max_size=40),
        st.sampled_from([b"", b"null", b"[]", b"{}", b"[" * 5_000, b'"\\ud800"', b"1e999", b"NaN", b"\xef\xbb\xbf{}"]))
