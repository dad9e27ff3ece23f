from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siftune._common.errors import ConfigError, DataError
from siftune.data import readers
from siftune.data.formats import FORMATS
from siftune.data.readers import read_rows
from siftune.data.rows import Message
from siftune.data.write import write_dropped, write_rows
from tests.data.samples import ANSWERS, TEXTS, jsonl, record

PAIRS = st.lists(st.tuples(TEXTS, ANSWERS), min_size=1, max_size=4)


def contents(rows: list) -> list[tuple[str, str]]:
    return [(row.messages[0].content, row.messages[1].content) for row in rows]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sources")


@pytest.mark.parametrize("format", FORMATS)
@given(pairs=PAIRS, ascii=st.booleans())
def test_jsonl_lines_are_kept_byte_for_byte(folder: Path, format: str, pairs: list, ascii: bool) -> None:
    lines = [json.dumps({**record(format, *pair), "weight": 0.1}, ensure_ascii=ascii) for pair in pairs]
    path = folder / "pool.jsonl"
    path.write_bytes("".join(line + "\n" for line in lines).encode("utf-8"))
    rows, dropped = read_rows([path], role="pool")
    assert contents(rows) == pairs
    assert [row.where for row in rows] == [f"{path}:{n}" for n in range(1, len(pairs) + 1)]
    assert not dropped
    write_rows(folder / "again.jsonl", rows)
    assert (folder / "again.jsonl").read_bytes() == path.read_bytes()


@given(pairs=PAIRS, indent=st.sampled_from([None, 2]), wrapped=st.booleans())
def test_json_arrays_keep_the_characters_of_each_element(folder: Path, pairs: list, indent: int | None,
                                                         wrapped: bool) -> None:
    records = [record("messages", *pair) for pair in pairs]
    text = json.dumps({"version": 1, "data": records, "end": {}} if wrapped else records, indent=indent,
                      ensure_ascii=False)
    (folder / "pool.json").write_text(text.replace('"user"', '"user", "n": 1.50'), encoding="utf-8", newline="")
    rows, _ = read_rows([folder / "pool.json"], role="pool")
    assert contents(rows) == pairs
    assert rows[-1].where == f"{folder / 'pool.json'}:row {len(pairs)}"
    for row, original in zip(rows, records, strict=True):
        assert "1.50" in row.raw
        assert "\n" not in row.raw
        expected = json.loads(json.dumps(original))
        expected["messages"][0]["n"] = 1.5
        assert json.loads(row.raw) == expected


@given(pairs=PAIRS)
def test_csv_cells_stay_the_text_they_are(folder: Path, pairs: list) -> None:
    # The csv module writes a lone NUL or carriage return in ways that it does not read back itself.
    pairs = [tuple(text.replace("\0", "0").replace("\r", "\n") for text in pair) for pair in pairs]
    pairs = [(prompt, answer if answer.strip() else "A") for prompt, answer in pairs]
    path = folder / "pool.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerows([["prompt", "completion", "n"], *[[*pair, "1.50"] for pair in pairs]])
    rows, _ = read_rows([path], role="pool")
    assert contents(rows) == pairs
    line = 2
    for row, pair in zip(rows, pairs, strict=True):
        assert json.loads(row.raw) == {"prompt": pair[0], "completion": pair[1], "n": "1.50"}
        assert row.where == f"{path}:{line}"
        line += 1 + sum(text.count("\n") for text in pair)


@given(pairs=PAIRS)
def test_parquet_values_are_kept(folder: Path, pairs: list) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    records = [{**record("messages", *pair), "score": 0.1 + 0.2, "missing": float("nan")} for pair in pairs]
    parquet.write_table(pa.Table.from_pylist(records), folder / "pool.parquet")
    rows, _ = read_rows([folder / "pool.parquet"], role="pool")
    assert contents(rows) == pairs
    assert [json.loads(row.raw) for row in rows] == [{**one, "missing": None} for one in records]
    assert "0.30000000000000004" in rows[0].raw


def test_every_kind_of_source_gives_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset, DatasetDict

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    records = [{"prompt": f"Q{i}", "completion": f"Ä{i}\u2028", "n": i / 3} for i in range(3)]
    jsonl(tmp_path / "a.ndjson", *records)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.ndjson").read_bytes()))
    (tmp_path / "a.json").write_bytes((tmp_path / "a.ndjson").read_bytes())  # JSON lines under the wrong name
    (tmp_path / "one").mkdir()
    jsonl(tmp_path / "one" / "b.jsonl", *records)
    jsonl(tmp_path / "one" / "dataset_info.json", {"not": "data"})
    Dataset.from_list(records).save_to_disk(str(tmp_path / "saved"))
    DatasetDict(train=Dataset.from_list(records), test=Dataset.from_list(records[:1])).save_to_disk(
        str(tmp_path / "splits"))
    for source in ("a.ndjson", "a.jsonl.gz", "a.json", "one", "saved", "splits#train"):
        rows, _ = read_rows([tmp_path / source], role="pool")
        assert [json.loads(row.raw) for row in rows] == records, source
    assert len(read_rows([f"{tmp_path}/splits#test"], role="pool")[0]) == 1
    with pytest.raises(DataError, match="train, test") as caught:
        read_rows([tmp_path / "splits"], role="pool")
    assert caught.value.hint == f"name one: {tmp_path}/splits#train"


def test_ids_come_from_the_file_where_every_record_has_one_and_are_made_otherwise(tmp_path: Path) -> None:
    complete = jsonl(tmp_path / "a.jsonl", {"id": "x", "prompt": "Q", "completion": "A"},
                     {"id": 7, "prompt": "Q", "completion": "B"})
    partial = jsonl(tmp_path / "b.jsonl", {"id": "y", "prompt": "Q", "completion": "A"},
                    {"id": "", "prompt": "Q", "completion": "A"})
    rows, _ = read_rows([complete, partial], role="pool")
    assert [row.id for row in rows] == ["x", "7", *(f"b:{i}:{rows[2].content_hash[:12]}" for i in (0, 1))]
    made, _ = read_rows([complete], role="pool", id_field="none")
    assert [row.id for row in made] == [f"a:{i}:{row.content_hash[:12]}" for i, row in enumerate(made)]
    with pytest.raises(DataError) as caught:
        read_rows([partial], role="pool", id_field="id")
    assert caught.value.where == f"{partial}:2"


def test_the_same_id_twice_is_refused_naming_both_places(tmp_path: Path) -> None:
    first = jsonl(tmp_path / "a.jsonl", {"id": 1, "prompt": "Q", "completion": "A"})
    second = jsonl(tmp_path / "b.jsonl", {"id": 0, "prompt": "Q", "completion": "B"},
                   {"id": "1", "prompt": "Q", "completion": "A"})
    with pytest.raises(DataError, match="--id-field none") as caught:
        read_rows([first, second], role="pool")
    assert caught.value.where == f"{second}:2"
    assert f"{first}:1" in str(caught.value)


def test_sources_of_one_name_are_told_apart(tmp_path: Path) -> None:
    one = {"prompt": "Q", "completion": "A"}
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
    paths = [jsonl(tmp_path / "x" / "pool.jsonl", one), jsonl(tmp_path / "y" / "pool.jsonl", one),
             jsonl(tmp_path / "y" / "pool.ndjson", one), jsonl(tmp_path / "other.jsonl", one)]
    rows, _ = read_rows(paths, role="pool")
    names = [row.source for row in rows]
    assert len(set(names)) == 4
    assert names[0] == "x/pool"
    assert names[3] == "other"
    assert [row.group for row in rows] == names
    with pytest.raises(DataError, match="given twice"):
        read_rows([paths[0], tmp_path / "y" / ".." / "x" / "pool.jsonl"], role="pool")


def test_subtask_and_group_come_from_their_fields(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t.jsonl", {"prompt": "Q", "completion": "A", "subtask": "sums", "topic": 3},
                 {"prompt": "Q", "completion": "A"})
    rows, _ = read_rows([path], role="target", group_field="topic")
    assert [(row.subtask, row.group) for row in rows] == [("sums", "3"), (None, "t")]


GOOD = b'{"prompt": "Q", "completion": "A"}\n'
BAD_LINES = [
    (b'{"prompt": "Q", "completion": \n', "broken-json", "column 31"),
    (b'{"prompt": "Q", "completion": "A"} x\n', "broken-json", "column 36"),
    (b'{"prompt": "\xe9"}\n', "not-utf8", "byte 0xe9 at byte offset 50"),
    (b'["prompt"]\n', "not-an-object", "list"),
    (b'{"text": "Q"}\n', "unknown-format", "found the keys text"),
    (b'{"prompt": "Q", "completion": ""}\n', "empty-response", ""),
    (b'{"prompt": "Q", "completion": 1}\n', "non-string-content", "a number"),
    (b'{"prompt": "Q", "completion": "\\ud800"}\n', "invalid-unicode", "completion"),
    (b'{"prompt": "Q", "completion": [{"role": "user", "content": "x"}]}\n', "no-assistant-turn", "user"),
    (b'{"prompt": "Q", "completion": "A", "n": ' + b"9" * 5000 + b"}\n", "broken-json", "digits"),
    (b"[" * 100_000 + b"\n", "broken-json", "nested too deeply"),
]


@pytest.mark.parametrize(("line", "reason", "detail"), BAD_LINES, ids=[f"{b[1]}-{i}" for i, b in enumerate(BAD_LINES)])
def test_a_bad_line_is_an_error_with_its_place_or_is_dropped_and_listed(tmp_path: Path, line: bytes, reason: str,
                                                                       detail: str) -> None:
    path = tmp_path / "pool.jsonl"
    path.write_bytes(GOOD + b"\n \n" + line + GOOD)  # blank lines count as lines
    with pytest.raises(DataError) as caught:
        read_rows([path], role="pool")
    assert caught.value.where == f"{path}:4"
    assert f"1 of 3 pool rows cannot be used: 1 {reason}" in caught.value.what
    assert detail in str(caught.value)
    assert "--bad-rows drop" in str(caught.value)
    assert ("iconv -f latin1 -t utf-8" in str(caught.value)) == (reason == "not-utf8")
    rows, dropped = read_rows([path], role="pool", bad_rows="drop")
    assert [row.where for row in rows] == [f"{path}:1", f"{path}:5"]
    assert [(one.where, one.reason, one.source) for one in dropped] == [(f"{path}:4", reason, "pool")]
    write_dropped(tmp_path / "dropped.jsonl", dropped)
    assert json.loads((tmp_path / "dropped.jsonl").read_text())["reason"] == reason


def test_all_bad_rows_of_a_run_are_counted_in_one_error(tmp_path: Path) -> None:
    paths = []
    for name in ("a", "b"):
        paths.append(tmp_path / f"{name}.jsonl")
        paths[-1].write_bytes(GOOD + b"{\n" + b'{"prompt": "Q", "completion": ""}\n')
    with pytest.raises(DataError) as caught:
        read_rows(paths, role="test")
    text = str(caught.value)
    assert "4 of 6 test rows" in text
    assert "2 broken-json" in text
    assert "2 empty-response" in text
    assert all(place in text for place in (f"{paths[0]}:2", f"{paths[0]}:3", f"{paths[1]}:2", "and 1 more"))


def test_dropping_every_row_is_an_error(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "pool.jsonl", {"text": "a"}, {"text": "b"})
    with pytest.raises(DataError, match="2 of 2") as caught:
        read_rows([path], role="pool", bad_rows="drop")
    assert "found the keys text" in str(caught.value)
    assert all(format in str(caught.value.hint) for format in FORMATS)


def test_a_change_of_format_inside_a_file_is_an_error_unless_mixed(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "pool.jsonl", *(record(format, "Q", "A") for format in FORMATS))
    with pytest.raises(DataError, match="--format mixed") as caught:
        read_rows([path], role="pool")
    assert caught.value.where == f"{path}:2"
    rows, _ = read_rows([path], role="pool", format="mixed")
    assert [row.format for row in rows] == list(FORMATS)
    with pytest.raises(ConfigError, match="did you mean 'alpaca'"):
        read_rows([path], role="pool", format="alpacca")


def test_an_explicit_format_wins_over_the_detected_one(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "pool.jsonl", {**record("messages", "Q", "A"), **record("alpaca", "I", "O")})
    rows, _ = read_rows([path], role="pool", format="alpaca")
    assert rows[0].messages == (Message("user", "I"), Message("assistant", "O"))


def test_a_byte_order_mark_and_windows_line_ends_are_tolerated(tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace(b"\n", b"\r\n") + b'{"prompt": "\xe9"}\n')
    rows, dropped = read_rows([path], role="pool", bad_rows="drop")
    assert rows[0].raw == GOOD.decode().rstrip()
    assert dropped[0].detail.endswith(f"offset {path.read_bytes().index(0xE9)}")
    (tmp_path / "pool.csv").write_bytes(b"\xef\xbb\xbfprompt,completion\r\nQ,A\r\n")
    assert contents(read_rows([tmp_path / "pool.csv"], role="pool")[0]) == [("Q", "A")]
    (tmp_path / "pool.json").write_bytes(b"\xef\xbb\xbf[" + GOOD.strip() + b"]")
    assert contents(read_rows([tmp_path / "pool.json"], role="pool")[0]) == [("Q", "A")]


WHOLE_FILE = [
    ("array.jsonl", b"[\n" + GOOD + b",", 3, "is not valid JSON"),
    ("empty.jsonl", b"", None, "is empty"),
    ("blank.jsonl", b"\n\n", None, "is empty"),
    ("array.json", b"[]", None, "is empty"),
    ("cut.json", b'[{"prompt": "Q",\n"completion": "A"},\n{"prompt"', 3, "element 2"),
    ("tail.json", b"[" + GOOD + b"]\n]", 2, "follows"),
    ("latin.json", b'[{"prompt":\n"\xe9"}]', 2, "byte offset 13"),
    ("header.csv", b"prompt,,completion\nQ,x,A\n", 1, "no name"),
    ("twice.csv", b"prompt,prompt\nQ,A\n", 1, "'prompt' twice"),
    ("latin.csv", b"prompt,\xe9\nQ,A\n", 1, "0xe9"),
    ("quote.csv", b'prompt,completion\nQ,"A\n', 2, "unexpected end of data"),
    ("wrong.parquet", GOOD, None, "not a readable Parquet file"),
    ("cut.jsonl.gz", gzip.compress(GOOD * 100)[:-9], None, "not a complete gzip file"),
    ("pool.txt", GOOD, None, "what kind of file"),
]


@pytest.mark.parametrize(("name", "data", "line", "says"), WHOLE_FILE, ids=[case[0] for case in WHOLE_FILE])
def test_a_file_damaged_as_a_whole_is_an_error_with_its_place(tmp_path: Path, name: str, data: bytes,
                                                              line: int | None, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DataError, match=says) as caught:
        read_rows([path], role="pool", bad_rows="drop")
    assert caught.value.where == (str(path) if line is None else f"{path}:{line}")
    assert caught.value.hint


def test_csv_rows_with_too_many_or_spoilt_cells_can_be_dropped(tmp_path: Path) -> None:
    path = tmp_path / "pool.csv"
    path.write_bytes(b'prompt,completion\n"a\nb",A\nQ,A,more\nQ,\xe9\nQ,A\n')
    rows, dropped = read_rows([path], role="pool", bad_rows="drop")
    assert [row.where for row in rows] == [f"{path}:2", f"{path}:6"]
    assert [(one.where, one.reason) for one in dropped] == [(f"{path}:4", "broken-csv"), (f"{path}:5", "not-utf8")]
    assert dropped[1].detail == f"byte 0xe9 at byte offset {path.read_bytes().index(0xE9)}"


def test_a_misspelt_path_gets_the_nearest_name(tmp_path: Path) -> None:
    jsonl(tmp_path / "pool.jsonl", record("alpaca", "Q", "A"))
    with pytest.raises(DataError) as caught:
        read_rows([tmp_path / "pol.jsonl"], role="pool")
    assert caught.value.hint == f"did you mean {tmp_path / 'pool.jsonl'}?"
    with pytest.raises(DataError, match="no such folder"):
        read_rows([tmp_path / "nowhere" / "pool.jsonl"], role="pool")
    (tmp_path / "hollow").mkdir()
    with pytest.raises(DataError, match="no data file in this folder"):
        read_rows([tmp_path / "hollow"], role="pool")


def test_a_hub_data_set_that_cannot_be_loaded_is_an_error_with_a_hint(tmp_path: Path,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no local path of that spelling
    with pytest.raises(DataError, match="from the hub") as caught:
        read_rows(["org/no-such-data:main#train"], role="pool")
    assert caught.value.hint


def test_large_files_are_read_with_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_LARGE", 1)
    path = jsonl(tmp_path / "pool.jsonl", record("alpaca", "Q", "A"))
    assert len(read_rows([path], role="pool")[0]) == 1
