"""`siftune select`: what a pool may look like, and what stands in the run folder afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from siftune._common.files import read_json
from tests.cli.command import SMALL, siftune
from tests.cli.conftest import Files
from tests.cli.pools import CONTAINERS, FORMATS, conversation, jsonl, record, records, write
from tests.cli.runs import check_run_folder, ids_of, lines, table


def test_less_selects_the_same_rows_whatever_the_format_of_pool_and_target(files: Files, tmp_path: Path) -> None:
    chosen = []
    for format in FORMATS:
        pool = jsonl(tmp_path / f"{format}.jsonl", records(format, range(24)))
        target = jsonl(tmp_path / f"{format}-target.jsonl", records(format, range(100, 106), "target"))
        siftune("select", "--model", files.model, "--pool", pool, "--target", target, "--budget", "25%",
                "--output-dir", tmp_path / format, *SMALL).ok()
        check_run_folder(tmp_path / format, pool_rows=24, selected=6)
        assert set(lines(tmp_path / format / "selected.jsonl")) <= set(lines(pool))
        chosen.append(table(tmp_path / format / "selection.parquet", "id", "score", "nearest_target", "gain", "tokens"))
    assert chosen[0] == chosen[1] == chosen[2] == chosen[3]


@pytest.mark.parametrize("container", CONTAINERS)
def test_rows_of_every_container_come_back_with_their_content(files: Files, tmp_path: Path, container: str) -> None:
    format = "alpaca" if container == "CSV" else "messages"
    rows = records(format, range(30))
    pool = write(container, tmp_path, rows)
    siftune("select", "--model", files.model, "--pool", pool, "--method", "random", "--budget", 7, "--seed", 3,
            "--output-dir", tmp_path / "run").ok()
    check_run_folder(tmp_path / "run", pool_rows=30, selected=7)
    by_id = {row["id"]: row for row in rows}
    ids = ids_of(tmp_path / "run")
    assert [json.loads(line) for line in lines(tmp_path / "run/selected.jsonl")] == [by_id[i] for i in ids]


def test_every_format_may_come_in_every_container_that_can_hold_it(files: Files, tmp_path: Path) -> None:
    for number, (container, format) in enumerate((c, f) for c in ("JSON array", "Parquet", "datasets folder")
                                                 for f in FORMATS):
        folder = tmp_path / str(number)
        folder.mkdir()
        rows = records(format, range(6))
        siftune("select", "--model", files.model, "--pool", write(container, folder, rows), "--method", "random",
                "--budget", "100%", "--output-dir", folder / "run").ok()
        found = [json.loads(line) for line in lines(folder / "run/selected.jsonl")]
        assert sorted(found, key=lambda row: row["id"]) == rows, (container, format)


def test_lines_of_a_jsonl_pool_are_written_back_byte_for_byte(files: Files, tmp_path: Path) -> None:
    turns = json.dumps(record("messages", 1)["messages"])
    odd = [
        f'{{"id":"compact","messages":{turns}}}',
        f'  {{ "id" : "spaces" ,\t"messages" : {turns} }}  ',
        f'{{"id": "numbers", "a": 1.50, "b": 1e5, "c": 123456789012345678901234567890, "messages": {turns}}}',
        f'{{"id": "escapes", "a": "\\u00e4\\/\\ud83d\\ude00", "messages": {turns}}}',
        f'{{"id": "plain \u00e4 \u2028 \U0001f600", "messages": {turns}}}',
        f'{{"id": "twice", "id": "twice again", "messages": {turns}}}',
        f'{{"id": "deep", "more": {{"x": [1, {{"y": null}}]}}, "messages": {turns}}}',
    ]
    pool = tmp_path / "pool.jsonl"
    pool.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(odd).encode() + b"\n\n")
    siftune("select", "--model", files.model, "--pool", pool, "--method", "random", "--budget", "100%",
            "--output-dir", tmp_path / "run").ok()
    assert sorted((tmp_path / "run/selected.jsonl").read_bytes().split(b"\n")[:-1]) == sorted(x.encode() for x in odd)


def test_one_pool_may_have_sources_of_different_formats_and_containers(files: Files, tmp_path: Path) -> None:
    pools = [write(container, tmp_path, records(format, range(start, start + 10), prefix)) for
             container, format, start, prefix in (("JSON lines", "messages", 0, "m"), ("CSV", "alpaca", 10, "a"),
                                                  ("Parquet", "sharegpt", 20, "s"),
                                                  ("datasets folder", "prompt-completion", 30, "p"))]
    given = [argument for pool in pools for argument in ("--pool", pool)]
    siftune("select", "--model", files.model, *given, "--target", files.target, "--budget", "25%",
            "--output-dir", tmp_path / "run", *SMALL).ok()
    check_run_folder(tmp_path / "run", pool_rows=40, selected=10)
    sources = read_json(tmp_path / "run/manifest.json")["data"]["sources"]
    assert [source["rows"] for source in sources] == [10, 10, 10, 10]
    texts = [json.dumps(json.loads(line)) for line in lines(tmp_path / "run/selected.jsonl")]
    for row_id, text in zip(ids_of(tmp_path / "run"), texts, strict=True):
        assert json.dumps(conversation(int(row_id[1:]))[0])[1:-1] in text


def test_rows_of_several_formats_in_one_file_are_taken_row_by_row_when_asked(files: Files, tmp_path: Path) -> None:
    rows = [record(FORMATS[i % 4], i, id=f"row{i}") for i in range(12)]
    pool = jsonl(tmp_path / "pool.jsonl", rows)
    siftune("select", "--model", files.model, "--pool", pool, "--format", "mixed", "--target", files.target,
            "--budget", "100%", "--output-dir", tmp_path / "run", *SMALL).ok()
    assert sorted(lines(tmp_path / "run/selected.jsonl")) == sorted(lines(pool))


def test_bad_rows_are_left_out_and_listed_when_asked(files: Files, tmp_path: Path) -> None:
    bad = ["{broken", json.dumps({"id": "q", "messages": [{"role": "user", "content": "and?"}]}), '{"text": "x"}',
           json.dumps({"id": "l", "messages": [{"role": "user", "content": "word " * 300},
                                               {"role": "assistant", "content": "yes"}]})]
    pool = jsonl(tmp_path / "pool.jsonl", [*records("messages", range(10)), *bad, *records("messages", range(10, 20))])
    siftune("select", "--model", files.model, "--pool", pool, "--target", files.target, "--budget", "50%",
            "--bad-rows", "drop", "--output-dir", tmp_path / "run", *SMALL).ok()
    check_run_folder(tmp_path / "run", pool_rows=24, selected=10)
    dropped = [json.loads(line) for line in lines(tmp_path / "run/dropped.jsonl")]
    assert [(row["where"], row["reason"]) for row in dropped] == [
        (f"{pool}:11", "broken-json"), (f"{pool}:12", "no-assistant-turn"), (f"{pool}:13", "unknown-format"),
        (f"{pool}:14", "prompt-longer-than-limit")]


@pytest.mark.parametrize(("budget", "rows"), [("1", 1), ("12.4%", 4), ("1%", 1), ("100%", 40)])
def test_budgets_in_rows_are_met_exactly(files: Files, finished: Path, tmp_path: Path, budget: str, rows: int) -> None:
    siftune("select", "--from", finished, "--budget", budget, "--output-dir", tmp_path / "run").ok()
    check_run_folder(tmp_path / "run", pool_rows=40, selected=rows)


def test_a_token_budget_is_never_exceeded_and_filled_as_far_as_rows_fit(finished: Path, tmp_path: Path) -> None:
    siftune("select", "--from", finished, "--budget", "200tok", "--output-dir", tmp_path / "run").ok()
    tokens = sum(table(tmp_path / "run/selection.parquet", "tokens")["tokens"])
    scores = table(tmp_path / "run/scores.parquet", "tokens", "selected")
    left = [n for n, taken in zip(scores["tokens"], scores["selected"], strict=True) if not taken]
    assert tokens <= 200 < tokens + min(left)


def test_rows_that_must_and_must_not_be_selected(finished: Path, tmp_path: Path) -> None:
    best = ids_of(finished)
    last = next(i for i in table(finished / "scores.parquet", "id")["id"] if i not in best)
    (tmp_path / "in.txt").write_text(f"{last}\n")
    (tmp_path / "out.txt").write_text(f"{best[0]}\n\n{best[1]}\n")
    siftune("select", "--from", finished, "--must-include", tmp_path / "in.txt", "--must-exclude", tmp_path / "out.txt",
            "--output-dir", tmp_path / "run").ok()
    ids = ids_of(tmp_path / "run")
    assert ids[0] == last
    assert not set(best[:2]) & set(ids)
    assert len(ids) == 8


def test_five_thousand_rows_are_sampled_without_a_model_pass(files: Files, tmp_path: Path) -> None:
    pool = jsonl(tmp_path / "pool.jsonl", records("messages", range(5000)))
    siftune("select", "--model", files.model, "--pool", pool, "--method", "random", "--budget", "5%",
            "--output-dir", tmp_path / "run").ok()
    check_run_folder(tmp_path / "run", pool_rows=5000, selected=250)
    assert "class" not in read_json(tmp_path / "run/manifest.json")["model"]  # it was never loaded
    assert not (tmp_path / "run/store").exists()
