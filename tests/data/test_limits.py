"""No input hangs a run or fills the memory: sizes are limited, and every reader takes linear time."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import time
from pathlib import Path
from typing import Any

import pytest

from siftune._common.errors import ConfigError, DataError
from siftune.data import near_duplicates, opening, overlap, records, sources, templates
from siftune.data.columns import named_columns
from siftune.data.limits import Limits
from siftune.data.readers import read_rows
from siftune.data.text import ngrams

GOOD = json.dumps({"prompt": "Q", "completion": "A"}).encode()
NESTED = b'{"prompt": "Q", "completion": "A", "x": ' + b"[" * 150 + b"]" * 150 + b"}"
TURNS = json.dumps({"messages": [{"role": r, "content": "x"} for r in ("user", "assistant") * 6]}).encode()


def compress(name: str, data: bytes) -> bytes:
    import pyarrow as pa

    if name.endswith(".zst"):
        made = pa.compress(data, codec="zstd", asbytes=True)
        assert isinstance(made, bytes)
        return made
    return {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[Path(name).suffix](data)


@pytest.mark.parametrize(("line", "limit"), [
    (b'{"prompt": "Q", "completion": "' + b"A" * 2000 + b'"}', "line=1000"),
    (b'{"prompt": "Q", "completion": "' + b"A" * 900 + b'"}', "row=800"),
    (NESTED, "nesting=120"),
    (TURNS, "turns=10"),
])
@pytest.mark.parametrize("name", ["p.jsonl", "p.json"])
def test_a_record_above_a_limit_is_a_bad_row_that_names_the_flag(tmp_path: Path, line: bytes, limit: str,
                                                                 name: str) -> None:
    path = tmp_path / name
    path.write_bytes(GOOD + b"\n" + line + b"\n" + GOOD)
    limits = Limits.parse([limit])
    rows, dropped = read_rows([path], role="pool", bad_rows="drop", limits=limits, format="mixed")
    assert [row.where for row in rows] == [f"{path}:1", f"{path}:3"]
    assert [one.reason for one in dropped] == ["over-limit"]
    assert f"--limit {limit.split('=')[0]}=" in dropped[0].detail
    raised = Limits.parse([f"{limit.split('=')[0]}=200", "line=1m", "row=1m"] if "nesting" in limit or "turns" in limit
                          else ["line=1m", "row=1m"])
    assert len(read_rows([path], role="pool", limits=raised, format="mixed")[0]) == 3


def test_a_line_above_the_limit_is_skipped_and_takes_no_memory(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "p.jsonl"
    path.write_bytes(GOOD + b"\n" + b"x" * 30_000_000 + b"\n" + GOOD + b"\n")
    tracemalloc.start()
    rows, dropped = read_rows([path], role="pool", bad_rows="drop", limits=Limits(line=100_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [row.where for row in rows] == [f"{path}:1", f"{path}:3"]
    assert [one.where for one in dropped] == [f"{path}:2"]
    assert peak < 5_000_000


@pytest.mark.parametrize("ending", opening.COMPRESSED)
def test_compressed_files_are_read_and_must_not_expand_beyond_the_limit(tmp_path: Path, ending: str,
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (GOOD + b"\n") * 3
    for name in (f"p.jsonl{ending}", f"p.json{ending}", f"p.ndjson{ending}"):
        (tmp_path / name).write_bytes(compress(name, lines) + compress(name, lines))  # two members, as tools append
        assert len(read_rows([tmp_path / name], role="pool")[0]) == 6
    csv = tmp_path / f"p.csv{ending}"
    csv.write_bytes(compress(csv.name, b"prompt;completion\nQ;A\n"))
    assert len(read_rows([csv], role="pool")[0]) == 1
    monkeypatch.setattr(opening, "_SPARED", 1_000_000)
    bomb = tmp_path / f"bomb.jsonl{ending}"
    padded = json.dumps({"prompt": "Q" * 20_000, "completion": "A"}).encode() + b"\n"
    bomb.write_bytes(compress(bomb.name, padded * 100))
    with pytest.raises(DataError, match="expands to more than 1,000,000 bytes") as caught:
        read_rows([bomb], role="pool", limits=Limits(expansion=2))
    assert "--limit expansion=" in str(caught.value.hint)
    bomb.write_bytes(bomb.read_bytes()[:-20])
    with pytest.raises(DataError, match="is not a complete"):
        read_rows([bomb], role="pool", limits=Limits(expansion=10**6))
    bomb.write_bytes(lines)
    with pytest.raises(DataError, match="is not a complete"):
        read_rows([bomb], role="pool")


def test_a_parquet_file_must_not_expand_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    monkeypatch.setattr(records, "_SPARED", 100_000)
    table = pa.table({"prompt": ["Q" * 100] * 20_000, "completion": ["A"] * 20_000})
    parquet.write_table(table, tmp_path / "p.parquet")
    with pytest.raises(DataError, match="expands to more than") as caught:
        read_rows([tmp_path / "p.parquet"], role="pool", limits=Limits(expansion=10))
    assert "--limit expansion=" in str(caught.value.hint)


@pytest.mark.parametrize(("given", "says"), [
    (["line"], "no limit"), (["line=0"], "no limit"), (["line=1e3"], "no limit"), (["turn=5"], "did you mean 'turns'"),
    (["nesting=5000"], "nesting=300 at most"), (["row=-1"], "no limit"),
])
def test_limits_that_cannot_be_meant_are_refused(given: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Limits.parse(given)
    assert says in str(caught.value)


def test_limits_take_units() -> None:
    assert Limits.parse(["line=2k", "row=3M", "turns=7"]) == Limits(line=2000, row=3_000_000, turns=7)


N = 1_000_000
HALF = N // 2
ADVERSARIAL = [
    " " * N, "\t \n" * (N // 3), " \n" + " " * N, "{%" + " " * N, "- " * HALF, "-" * HALF + " " * HALF, "a" * N,
    "a/" * HALF, "." * N, "\u0301\u0327" * HALF, "a\u0327\u0301" * (N // 3), "[" * N, '{"a":' * (N // 5), "," * N,
    "=" * N, "prompt=" * (N // 7), "日" * N, "\\u" * HALF, '"' * N]


@pytest.mark.parametrize("text", ADVERSARIAL, ids=range(len(ADVERSARIAL)))
def test_every_pattern_takes_linear_time(text: str, tmp_path: Path) -> None:
    def attempt(work: Any, value: Any) -> None:
        start = time.process_time()
        with contextlib.suppress(DataError, ConfigError, ValueError):
            work(value)
        assert time.process_time() - start < 3, work

    attempt(records._one_line, text)
    attempt(overlap.normalise, text)
    attempt(near_duplicates.shingles, text)
    attempt(templates._MARKERS.search, text)
    attempt(ngrams.words, text)
    attempt(lambda value: sources.find_sources([value]), text)
    attempt(lambda value: named_columns([value]), text)
    attempt(lambda value: Limits.parse([value]), text)
    attempt(records._array_start, text)
    for name in ("p.jsonl", "p.json", "p.csv"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        attempt(lambda value: read_rows([value], role="pool", bad_rows="drop"), tmp_path / name)


def test_white_space_between_the_parts_of_an_element_takes_linear_time(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text('[{"prompt":' + " " * 500_000 + '"Q",\n"completion": "A"}]', encoding="utf-8")
    start = time.process_time()
    (row,), _ = read_rows([path], role="pool")
    assert time.process_time() - start < 2
    assert row.raw.endswith('"Q", "completion": "A"}')


@pytest.mark.parametrize(("record", "field"), [
    ({"prompt": "Q", "completion": "A", "note": "\ud83d"}, "note"),
    ({"prompt": "Q", "completion": "A", "meta": {"by": ["x", "\udc00"]}}, "meta.by, number 2"),
    ({"prompt": "Q", "completion": "A", "\ud83d": 1}, "the key"),
    ({"id": "\ud83d", "prompt": "Q", "completion": "A"}, "id"),
    ({"group": "\ud83d", "prompt": "Q", "completion": "A"}, "group"),
    ({"prompt": "Q", "completion": "A", "tools": [{"name": "\ud83d"}]}, "tools, number 1.name"),
])
def test_half_a_surrogate_pair_in_any_field_is_a_bad_row(tmp_path: Path, record: dict, field: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(GOOD + b"\n" + json.dumps(record).encode() + b"\n")
    rows, dropped = read_rows([path], role="pool", bad_rows="drop")
    assert len(rows) == 1
    assert [one.reason for one in dropped] == ["invalid-unicode"]
    assert field in dropped[0].detail
    with pytest.raises(DataError) as caught:
        read_rows([path], role="pool")
    str(caught.value).encode("utf-8")


def test_normalising_long_runs_of_combining_marks_changes_no_shorter_one() -> None:
    assert overlap.normalise("e\u0301" * 3) == overlap.normalise("é" * 3)
    assert overlap.normalise("x" + "\u0301" * 30) == "x" + "\u0301" * 30
