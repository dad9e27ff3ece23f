"""Whatever is in a file or a flag, reading it ends with rows or with an error that a user can act on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from siftune._common.errors import SiftuneError
from siftune.data.columns import named_columns
from siftune.data.formats import detect, read_conversation
from siftune.data.limits import Limits
from siftune.data.problems import REASONS, BadRow
from siftune.data.readers import Reading, read_sources
from siftune.data.sources import find_sources
from siftune.data.write import write_dropped, write_rows
from tests.strategies import COLUMN_TEXTS, LIMIT_TEXTS, LINES, good_records, records

CALM = settings(max_examples=150, deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
NAMES = ["p.jsonl", "p.json", "p.csv", "p.tsv", "p.jsonl.gz", "p.jsonl.bz2", "p.jsonl.xz", "p.jsonl.zst", "p.parquet"]


def read(path: Path, **options: Any) -> Reading:
    try:
        reading = read_sources([path], role="pool", bad_rows="drop", **options)
    except SiftuneError:
        return Reading()
    write_rows(path.with_suffix(".rows"), reading.rows)
    write_dropped(path.with_suffix(".dropped"), reading.dropped)
    for row in reading.rows:
        for text in (row.id, row.group or "", row.content_hash, *(m.text for m in row.messages)):
            text.encode("utf-8")
        json.dumps(row.tools).encode("utf-8")
    return reading


@CALM
@given(record=records(), typed=st.booleans())
def test_every_field_of_any_record_is_used_kept_or_named(record: dict[str, Any], typed: bool) -> None:
    format = detect(record)
    if format is None:
        return
    try:
        found = read_conversation(record, format, typed=typed)
    except BadRow as problem:
        reason = problem.reason
        found = None
    if found is None:
        assert reason in REASONS
        return
    filled = {str(key)[:80] for key, value in record.items() if value is not None}
    assert filled <= found.used | found.kept
    assert not {name for name in found.used & found.kept if "[]" not in name}


@CALM
@given(found=st.lists(LINES, max_size=5), name=st.sampled_from(NAMES),
       format=st.sampled_from(["auto", "mixed", "alpaca"]))
def test_any_bytes_under_any_name_give_rows_or_an_error(tmp_path_factory: pytest.TempPathFactory, found: list[bytes],
                                                        name: str, format: str) -> None:
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(b"\n".join(found))
    read(path, format=format)


@CALM
@given(found=st.lists(records(), min_size=1, max_size=4), suffix=st.sampled_from([".jsonl", ".json"]))
def test_any_records_give_rows_or_reasons(tmp_path_factory: pytest.TempPathFactory, found: list[dict[str, Any]],
                                          suffix: str) -> None:
    path = tmp_path_factory.getbasetemp() / f"records{suffix}"
    lines = [json.dumps(one) for one in found]
    path.write_text("\n".join(lines) if suffix == ".jsonl" else f"[{','.join(lines)}]", encoding="utf-8")
    reading = read(path, format="mixed")
    assert len(reading.rows) + len(reading.dropped) in (0, len(found))
    assert {one.reason for one in reading.dropped} <= set(REASONS)


@CALM
@given(record=good_records())
def test_a_record_of_known_fields_is_used_whole_and_written_as_it_came(tmp_path_factory: pytest.TempPathFactory,
                                                                       record: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "good.jsonl"
    path.write_text(json.dumps(record), encoding="utf-8")
    reading = read(path)
    assert [row.raw for row in reading.rows] == [json.dumps(record)]
    assert not reading.sources[0].kept


@CALM
@given(columns=st.lists(COLUMN_TEXTS, max_size=2), limits=st.lists(LIMIT_TEXTS, max_size=2), source=COLUMN_TEXTS)
def test_any_flag_is_understood_or_refused(columns: list[str], limits: list[str], source: str) -> None:
    for call, value in ((named_columns, columns), (Limits.parse, limits), (find_sources, [source])):
        refusal = None
        try:
            call(value)  # type: ignore[operator]
        except SiftuneError as error:
            refusal = error
        assert refusal is None or refusal.hint
