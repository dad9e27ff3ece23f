"""A pool that is kept in files gives the run folder that one in memory gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import siftune
from siftune.data import collect, rendering, stored

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo"


def run(folder: Path, **more: Any) -> siftune.Run:
    return siftune.select(pool=str(DEMO / "pool.jsonl"), target=str(DEMO / "target.jsonl"),
                          test=str(DEMO / "test.jsonl"), method="bm25", budget="10%", output_dir=str(folder),
                          overlap="drop", **{"near_duplicates": 0.9, "strata": "length:3", **more})


def test_a_selection_from_files_is_the_selection_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(tmp_path / "memory")
    assert not (tmp_path / "memory" / "pool").exists()
    monkeypatch.setattr(collect, "MANY", 20)
    monkeypatch.setattr(stored, "BATCH_ROWS", 30)
    monkeypatch.setattr(rendering, "BLOCK", 50)
    first = run(tmp_path / "files")
    assert (tmp_path / "files" / "pool" / "rows.arrow").is_file()
    monkeypatch.setattr(rendering, "_rendered", lambda rows, *_: pytest.fail("rendered again") if len(rows) > 150 else
                        iter([rendering.render_block(_[0], rendering._conversations(rows, 0))]))
    for found in (first, run(tmp_path / "files"), run(tmp_path / "onward", from_run=str(tmp_path / "files"))):
        assert (found.folder / "selected.jsonl").read_bytes() == (expected.folder / "selected.jsonl").read_bytes()
        for name in ("scores.parquet", "selection.parquet"):
            assert pq.read_table(found.folder / name).equals(pq.read_table(expected.folder / name))
        for name in ("dropped.jsonl", "targets.jsonl", "rejected_sample.jsonl"):
            assert (found.folder / name).read_bytes() == (expected.folder / name).read_bytes()
        for part in ("data", "budget", "diagnostics", "warnings"):
            assert found.manifest[part] == expected.manifest[part]
        assert json.dumps(found.manifest["store"]["fingerprint"]) == json.dumps(
            expected.manifest["store"]["fingerprint"])
    assert not (tmp_path / "onward" / "pool").exists()
