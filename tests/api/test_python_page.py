"""docs/python.md is true: its blocks run, in order, in one namespace."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.embedded
def test_the_python_page_runs_from_top_to_bottom(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(BLOCKS) >= 8
    names: dict[str, Any] = {}
    for number, block in enumerate(BLOCKS, 1):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec", dont_inherit=True), names)
    printed = capsys.readouterr().out
    for told in ("Run(6 of 32 rows, bm25 + round-robin", "selected; rank 1 of 6", "would come at rank 7",
                 "did you mean 'bm25'?", "SFTTrainer", "zero-shot"):
        assert told in printed
    assert all("plus" in row["messages"][0]["content"] for row in names["same"].rows)
    assert names["features"].array.shape == (32, 576)
    assert set(names["frame"]["name"]) == {"zero-shot", "random", "bm25"}
    assert names["frame"]["mean"].notna().all()
