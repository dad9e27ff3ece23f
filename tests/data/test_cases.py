"""Small files of the kinds that people really have: each one's right outcome.

Which turns are supervised with which chat template is in the tests of rendering; what is asked here is what is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from siftune._common.errors import DataError
from siftune.data.columns import named_columns
from siftune.data.readers import Reading, read_sources
from siftune.data.rows import Message, Row, ToolCall

CASES = Path(__file__).parent / "cases"
WEATHER = ToolCall("get_weather", '{"city": "Oslo"}', "c1")
HELLO = ("user", "Hi"), ("assistant", "Hello!")
ACCENTS = ("user", "Hé"), ("assistant", "Hällo 😀")
UNION = [*((("user", f"q{i}"), ("assistant", f"a{i}")) for i in range(3)),
         *((("user", f"Hi{i}"), ("assistant", f"Hello{i}")) for i in range(3))]


def read(name: str) -> Reading:
    return read_sources([CASES / name], role="pool")


def said(row: Row) -> tuple[tuple[str, str], ...]:
    return tuple((message.role, message.content) for message in row.messages)


PLAIN = {
    "array.jsonl": [ACCENTS, (("user", "Jé"), ("assistant", "Jällo 😀"))],
    "ds.jsonl": [(("user", "2+2?"), ("assistant", "<think>\nadd\n</think>\n\n4")), HELLO],
    "ends_user.jsonl": [(("user", "Hi"), ("assistant", "Hello"), ("user", "thanks")),
                        (("user", "Hi"), ("assistant", "Hello"))],
    "gptoss.jsonl": [(*HELLO, ("user", "2+2?"), ("assistant", "4"))],
    "gsm8k.jsonl": [(("user", "Tom has 2 apples and buys 2."), ("assistant", "2+2=4 #### 4"))],
    "idx.csv": [(("user", "add 1 1"), ("assistant", "2")), (("user", "add 2 2"), ("assistant", "4"))],
    "inout.jsonl": [(("user", "2+2?"), ("assistant", "4"))],
    "msg_str.jsonl": [(("user", "Hi"), ("assistant", "Hello"))],
    "msg_topsys.jsonl": [(("system", "Always answer in French."), ("user", "Hi"), ("assistant", "Bonjour"))],
    "msgs.csv": [(("user", "Hi"), ("assistant", "Hello"))],
    "msswift.jsonl": [(("system", "s"), ("user", "2+2?"), ("assistant", "4"), ("user", "and 3?"), ("assistant", "6"))],
    "nemo.jsonl": [HELLO],
    "orca.jsonl": [(("system", "You are helpful"), ("user", "2+2?"), ("assistant", "4"))],
    "p.jsonl.zst": [ACCENTS],
    "phi_multi.jsonl": [(*HELLO, ("user", "2+2?"), ("assistant", "4")), (*HELLO, ("user", "thanks"))],
    "q3_multi.jsonl": [(*HELLO, ("user", "2+2?"), ("assistant", "4"))],
    "semi.csv": [(("user", "add 1 1"), ("assistant", "2"))],
    "utf16.jsonl": [ACCENTS],
    "union.jsonl": UNION,
    "union.parquet": UNION,
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_conversations_are_read_whole(name: str) -> None:
    reading = read(name)
    assert [said(row) for row in reading.rows] == PLAIN[name]
    assert all(message == Message(message.role, message.content) for row in reading.rows for message in row.messages)
    assert all(row.tools is None for row in reading.rows)


def calls(reading: Reading) -> None:
    (row,) = reading.rows
    assert row.tools is not None
    assert [tool["function"]["name"] for tool in row.tools] == ["get_weather"]
    call = next(message for message in row.messages if message.tool_calls)
    assert [(one.name, json.loads(one.arguments)) for one in call.tool_calls] == [("get_weather", {"city": "Oslo"})]
    result = row.messages[row.messages.index(call) + 1]
    assert result.role == "tool"
    assert row.messages[-1].content == "It is 3 degrees."
    assert '"tools"' in row.raw


def calls_without_text(reading: Reading) -> None:
    calls(reading)
    assert reading.rows[0].messages[1] == Message("assistant", "", (WEATHER,))
    assert reading.rows[0].messages[2] == Message("tool", "3", tool_call_id="c1")


def calls_with_text(reading: Reading) -> None:
    calls(reading)
    assert reading.rows[0].messages[1] == Message("assistant", "Let me look.", (WEATHER,))


def thought(reading: Reading) -> None:
    assert reading.rows[0].messages[1] == Message("assistant", "4", reasoning="Two and two make four.")


def trained(*flags: bool) -> Callable[[Reading], None]:
    def check(reading: Reading) -> None:
        assert [m.train for m in reading.rows[0].messages if m.role == "assistant"] == list(flags)
        assert "weight" in reading.rows[0].raw or "loss" in reading.rows[0].raw
    return check


def rows(count: int) -> Callable[[Reading], None]:
    def check(reading: Reading) -> None:
        assert len(reading.rows) == count
    return check


def only_train(reading: Reading) -> None:
    assert [said(row)[0][1] for row in reading.rows] == ["a1", "a2"]
    assert "test-00000-of-00001.parquet" in reading.sources[0].note


READ: dict[str, Callable[[Reading], None]] = {
    "toolcalls_null.jsonl": calls_without_text, "toolcalls_text.jsonl": calls_with_text, "tools_sharegpt.jsonl": calls,
    "reasoning_content.jsonl": thought, "thinking_field.jsonl": thought,
    "weight0.jsonl": trained(False, True), "lossflag.jsonl": trained(False, True), "hubclone": only_train,
    "long_pool.jsonl": rows(20), "vocab_pool.jsonl": rows(20), "target6.jsonl": rows(6),
    **dict.fromkeys(("poolA16.jsonl", "poolA16_shuffled.jsonl", "poolB16.jsonl"), rows(16)),
}


@pytest.mark.parametrize("name", READ)
def test_calls_thoughts_flags_and_splits_are_read(name: str) -> None:
    READ[name](read(name))


REFUSED = {
    "llava.jsonl": ("not-text: image", "take these rows out"),
    "columns.json": ("conversations is an object", "orient='records'"),
    "splits.json": ("found the keys train, test", "'.train[]'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_with_advice_that_helps(name: str) -> None:
    with pytest.raises(DataError) as caught:
        read(name)
    what, hint = REFUSED[name]
    assert what in str(caught.value)
    assert hint in str(caught.value.hint)


def test_every_case_has_an_outcome() -> None:
    assert {path.name for path in CASES.iterdir()} == {*PLAIN, *READ, *REFUSED}


def test_columns_of_other_names_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("frage;antwort;thema\n2+2?;4;zahlen\n", encoding="utf-8")
    reading = read_sources([path], role="pool", named=named_columns(["prompt=frage,completion=antwort"]))
    assert said(reading.rows[0]) == (("user", "2+2?"), ("assistant", "4"))
    assert (reading.sources[0].formats, list(reading.sources[0].kept)) == ({"columns": 1}, ["thema"])
    with pytest.raises(DataError) as caught:
        read_sources([path], role="pool")
    assert "--columns prompt=" in str(caught.value.hint)


def test_named_columns_leave_other_files_to_their_own_format() -> None:
    named = named_columns(["prompt=frage,completion=antwort"])
    assert said(read_sources([CASES / "gsm8k.jsonl"], role="target", named=named).rows[0])[1][1] == "2+2=4 #### 4"


@pytest.mark.parametrize(("text", "says"), [
    ('[{"role": "user"', "not JSON"), ("[{'role': 'user', 'content': 'x'}]", "json.dumps"),
])
def test_turns_in_cells_that_are_not_json_are_told(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"messages": text}), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_sources([path], role="pool")
    assert says in str(caught.value)


def test_a_merged_csv_is_read_by_what_each_row_has_filled(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("instruction,output,question,answer\nI,O,,\n,,Q,A\n", encoding="utf-8")
    assert [said(row) for row in read_sources([path], role="pool").rows] == [
        (("user", "I"), ("assistant", "O")), (("user", "Q"), ("assistant", "A"))]


def test_tab_separated_files_are_read_by_name_or_header(tmp_path: Path) -> None:
    for name in ("p.tsv", "p.csv"):
        (tmp_path / name).write_text("question\tanswer\na, b;c\td\n", encoding="utf-8")
        assert said(read_sources([tmp_path / name], role="pool").rows[0]) == (("user", "a, b;c"), ("assistant", "d"))
