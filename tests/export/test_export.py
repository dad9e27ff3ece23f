from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from siftune._common.errors import ConfigError, DataError
from siftune.data.readers import read_rows
from siftune.data.rows import Row
from siftune.export import TARGETS, export

FILES = [to for to in TARGETS if to != "hub"]  # what a data set of the hub holds: test_hub.py

RECORDS = [
    {"instruction": "Q1", "input": "", "output": "Ä1\u2028"},
    {"id": "own", "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Q2"},
                               {"role": "assistant", "content": "A2"}]},
    {"prompt": "Q3", "completion": "A3"},
]
CHATS = [
    [("user", "Q1"), ("assistant", "Ä1\u2028")],
    [("system", "S"), ("user", "Q2"), ("assistant", "A2")],
    [("user", "Q3"), ("assistant", "A3")],
]
IDS = ["pool:8:abc", "own", "pool:2:def"]


def make_run(folder: Path, records: list[dict], ids: list[str] | None) -> Path:
    folder.mkdir()
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    (folder / "selected.jsonl").write_text(text, encoding="utf-8")
    if ids is not None:
        import pyarrow as pa
        from pyarrow import parquet

        ranks = list(range(1, len(ids) + 1))
        parquet.write_table(pa.table({"id": ids[::-1], "rank": ranks[::-1]}), folder / "selection.parquet")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", RECORDS, IDS)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def chats(records: list[dict]) -> list[list[tuple[str, str]]]:
    turns = [one.get("messages") or one["prompt"] + one["completion"] for one in records]
    return [[(turn["role"], turn["content"]) for turn in chat] for chat in turns]


@pytest.mark.parametrize("to", FILES)
def test_order_ids_and_conversations_survive_every_export(run: Path, tmp_path: Path, to: str) -> None:
    made = export(run, to, tmp_path / "out")
    assert made.files[0] == tmp_path / "out" / "selected.jsonl"
    assert made.rows == 3
    rows, _ = read_rows([made.files[0]], role="pool", format="mixed")
    assert [row.id for row in rows] == IDS
    assert [[(m.role, m.content) for m in row.messages] for row in rows] == CHATS


def test_jsonl_keeps_the_records_and_adds_the_id_where_it_is_missing(run: Path, tmp_path: Path) -> None:
    (data,) = export(run, "jsonl", tmp_path / "out.jsonl").files
    original = (run / "selected.jsonl").read_text(encoding="utf-8").split("\n")
    written = data.read_text(encoding="utf-8").split("\n")
    assert written[1] == original[1]
    assert written[0] == '{"id": "pool:8:abc", ' + original[0][1:]
    other = make_run(tmp_path / "other", [{"id": 1, "prompt": "Q", "completion": "A"}], ["pool:0:x"])
    (data,) = export(other, "jsonl", tmp_path / "other.jsonl").files
    assert lines(data)[0] == {"siftune_id": "pool:0:x", "id": 1, "prompt": "Q", "completion": "A"}


def test_trl_gets_prompt_and_completion_unless_a_row_has_several_answers(run: Path, tmp_path: Path) -> None:
    data = export(run, "trl", tmp_path / "out.jsonl").files[0]
    assert chats(lines(data)) == CHATS
    assert [len(one["completion"]) for one in lines(data)] == [1, 1, 1]
    several = {"messages": [{"role": role, "content": role} for role in ("user", "assistant") * 2]}
    made = export(make_run(tmp_path / "several", [*RECORDS, several], None), "trl", tmp_path / "several.jsonl")
    assert [set(one) for one in lines(made.files[0])] == [{"id", "messages"}] * 4
    assert "assistant_only_loss=True" in made.note


def test_llamafactory_gets_an_entry_beside_those_already_there(run: Path, tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text('{"mine": {"file_name": "mine.json"}}')
    data, info, settings = export(run, "llamafactory", tmp_path / "my subset.jsonl").files
    entries = json.loads(info.read_text())
    assert list(entries) == ["mine", "my_subset"]
    assert yaml.safe_load(settings.read_text())["dataset"] == "my_subset"
    entry = entries["my_subset"]
    assert entry["file_name"] == data.name
    keys = (entry["tags"]["role_tag"], entry["tags"]["content_tag"])
    read = [[tuple(turn[key] for key in keys) for turn in one[entry["columns"]["messages"]]] for one in lines(data)]
    assert read == CHATS
    info.write_text("[")
    with pytest.raises(DataError, match="cannot be read"):
        export(run, "llamafactory", tmp_path / "my subset.jsonl")


def test_axolotl_gets_a_section_that_trains_on_assistant_turns(run: Path, tmp_path: Path) -> None:
    data, snippet = export(run, "axolotl", tmp_path / "out").files
    (section,) = yaml.safe_load(snippet.read_text())["datasets"]
    assert (snippet.parent / section["path"]) == data
    assert section["roles_to_train"] == ["assistant"]
    assert section["type"] == "chat_template"
    names = section["message_property_mappings"]
    read = [[(turn[names["role"]], turn[names["content"]]) for turn in one[section["field_messages"]]]
            for one in lines(data)]
    assert read == CHATS


def test_unknown_trainers_and_unfinished_runs_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'axolotl'"):
        export(run, "axolot", tmp_path / "out")
    with pytest.raises(DataError, match=r"selected\.jsonl is missing"):
        export(tmp_path, "trl", tmp_path / "out")
    with pytest.raises(DataError, match="do not belong together"):
        export(make_run(tmp_path / "other", RECORDS, IDS[:2]), "trl", tmp_path / "out")
    (run / "selection.parquet").write_bytes(b"x")
    with pytest.raises(DataError, match="not a Parquet file"):
        export(run, "trl", tmp_path / "out")


CASES = Path(__file__).parents[1] / "data" / "cases"


def rows_of(folder: Path, *names: str, config: str = "") -> tuple[Path, list[Row]]:
    records = [json.loads(line) for name in names for line in (CASES / name).read_text().splitlines()]
    run = make_run(folder, records, [f"r{i}" for i in range(len(records))])
    if config:
        (run / "config.yaml").write_text(config)
    rows, _ = read_rows([run / "selected.jsonl"], role="pool", format="mixed", id_field="none")
    return run, rows


def meaning(rows: list[Row]) -> list[tuple[object, object]]:
    return [(row.messages, row.tools) for row in rows]


@pytest.mark.parametrize("to", FILES)
def test_tool_calls_and_tools_survive_every_export(tmp_path: Path, to: str) -> None:
    run, rows = rows_of(tmp_path / "run", "tools_sharegpt.jsonl", "gsm8k.jsonl")
    made = export(run, to, tmp_path / to)
    written, _ = read_rows([made.files[0]], role="pool", format="mixed")
    assert meaning(written) == meaning(rows)
    if to == "llamafactory":
        (entry,) = json.loads(made.files[1].read_text()).values()
        assert entry["tags"]["function_tag"] == lines(made.files[0])[0]["messages"][2]["role"] == "function_call"
        assert json.loads(lines(made.files[0])[0][entry["columns"]["tools"]])[0]["name"] == "get_weather"
    if to == "axolotl":
        assert yaml.safe_load(made.files[1].read_text())["datasets"][0]["field_tools"] == "tools"


def test_text_beside_calls_thoughts_and_flags_survive_or_are_refused(tmp_path: Path) -> None:
    run, rows = rows_of(tmp_path / "run", "toolcalls_text.jsonl", "reasoning_content.jsonl", "lossflag.jsonl")
    for to in ("jsonl", "axolotl"):
        made = export(run, to, tmp_path / to)
        assert meaning(read_rows([made.files[0]], role="pool", format="mixed")[0]) == meaning(rows)
    assert yaml.safe_load(made.files[1].read_text())["datasets"][0]["message_field_training"] == "train"
    assert [turn["train"] for turn in lines(made.files[0])[2]["messages"]] == [False, False, False, True]
    for to in ("trl", "llamafactory"):
        with pytest.raises(DataError, match="not to be trained on") as caught:
            export(run, to, tmp_path / to)
        assert "--to axolotl" in str(caught.value.hint)
        assert not (tmp_path / to).exists()
    calls, _ = rows_of(tmp_path / "calls", "toolcalls_text.jsonl")
    thoughts, _ = rows_of(tmp_path / "thoughts", "thinking_field.jsonl")
    for one, says in ((calls, "text beside a tool call"), (thoughts, "thoughts apart from the answer")):
        with pytest.raises(DataError, match=says):
            export(one, "llamafactory", tmp_path / "no")


def test_trl_learns_only_the_last_answer_where_the_others_are_not_trained_on(tmp_path: Path) -> None:
    run, rows = rows_of(tmp_path / "run", "weight0.jsonl", "lossflag.jsonl")
    made = export(run, "trl", tmp_path / "out")
    assert [[turn["content"] for turn in one["completion"]] for one in lines(made.files[0])] == [
        ["4"], ["ACTION: go to bed 1"]]
    assert meaning(read_rows([made.files[0]], role="pool")[0]) == meaning(rows)


def test_a_run_with_named_columns_is_exported_by_them(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [{"frage": "Q", "antwort": "A"}], ["r0"])
    (run / "config.yaml").write_text("columns: ['prompt=frage,completion=antwort']\n")
    assert chats(lines(export(run, "trl", tmp_path / "out").files[0])) == [[("user", "Q"), ("assistant", "A")]]


@pytest.mark.parametrize("name", ["pool.jsonl", "held out.jsonl", "run/selected.jsonl"])
def test_an_export_never_overwrites_what_the_run_needs(run: Path, tmp_path: Path, name: str) -> None:
    pool, test = tmp_path / "pool.jsonl", tmp_path / "held out.jsonl"
    pool.write_text("pool")
    test.write_text("test")
    (run / "config.yaml").write_text(yaml.safe_dump({"pool": [str(pool), "org/name"], "test": [str(test)]}))
    before = (tmp_path / name).read_bytes()
    with pytest.raises(ConfigError, match="would overwrite") as refused:
        export(run, "trl", tmp_path / name)
    assert "--output" in (refused.value.hint or "")
    assert (tmp_path / name).read_bytes() == before
    assert export(run, "trl", tmp_path / "out.jsonl").files == export(run, "trl", tmp_path / "out.jsonl").files


def test_only_a_run_can_be_exported() -> None:
    for wrong in (None, 5):
        with pytest.raises(ConfigError, match="no run to export"):
            export(wrong)  # type: ignore[arg-type]


def test_a_damaged_selection_is_not_blamed_on_the_rows(run: Path, tmp_path: Path) -> None:
    selected = run / "selected.jsonl"
    selected.write_bytes(selected.read_bytes().replace(b'{"', b'["', 1))
    with pytest.raises(DataError, match="has changed since it was written") as caught:
        export(run, "trl", tmp_path / "out")
    assert "siftune select again" in (caught.value.hint or "")
