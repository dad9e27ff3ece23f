"""A selector that covers features has its curve on the page; others have none, and nothing malformed breaks it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from siftune.report import build, charts
from siftune.report.model import build_report
from tests.report.runs import write_run


def run_with(folder: Path, **diagnostics: Any) -> Path:
    write_run(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["diagnostics"] |= diagnostics
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_the_curve_is_drawn_and_told(tmp_path: Path) -> None:
    curve = [[i, min(50, 7 * i)] for i in range(1, 21)]
    run = run_with(tmp_path / "run", coverage_curve=curve, features=60)
    report = build_report(run)["coverage"]
    assert (report["features"], report["covered"], report["curve"]) == (60, 50, curve)
    assert report["told"][0] == [1, 7]
    assert report["told"][-1] == [20, 50]
    page = build(run)[0].read_text()
    assert "Features covered" in page
    assert "50 of the 60 features" in page
    assert "83.3%" in page


@pytest.mark.parametrize("diagnostics", [
    {}, {"coverage_curve": []}, {"coverage_curve": [[1, 2]]}, {"coverage_curve": "<script>", "features": 3},
    {"coverage_curve": [[1, "<b>"]], "features": 3}, {"coverage_curve": [[1, 2, 3]], "features": 3},
    {"coverage_curve": [[1, -2]], "features": 3}, {"coverage_curve": [[1, 2]], "features": True},
])
def test_without_a_proper_curve_there_is_no_section(diagnostics: dict[str, Any], tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", **diagnostics)
    assert build_report(run)["coverage"] is None
    page = build(run)[0].read_text()
    assert 'id="features"' not in page
    assert "<script>" not in page


def test_the_line_runs_from_the_origin_to_the_last_point_and_stays_inside() -> None:
    svg = ElementTree.fromstring(str(charts.curve("T", "D", [(1, 5), (4, 8)], 10, limit="10 <in all>")))
    lines = [e.attrib for e in svg.iter("line") if e.attrib["class"] == "curve"]
    assert [(e["x1"], e["x2"]) for e in lines] == [("0%", "25%"), ("25%", "100%")]
    heights = [float(e[name]) for e in lines for name in ("y1", "y2")]
    bottom, top = 162, 22
    assert heights == [bottom, bottom - 70, bottom - 70, pytest.approx(bottom - 112)]
    assert all(top <= y <= bottom for y in heights)
    assert any(e.text == "10 <in all>" for e in svg.iter("text"))
