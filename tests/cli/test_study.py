"""`siftune study` as a user runs it: results, a preview, mistakes, and being killed."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import siftune, start
from tests.experiments.studies import study_file, timeless, write_files

Values = dict[str, Any]


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> Values:
    """A study of five cells."""
    made = write_files(tmp_path_factory.mktemp("study"))
    return made | {"methods": ["bm25"], "headline": [], "budgets": ["10%"], "baselines": {"random": 2}}


@pytest.fixture(scope="module")
def calm(values: Values, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that nobody disturbed."""
    folder = tmp_path_factory.mktemp("calm")
    siftune("study", study_file(folder / "study.yaml", values), "--output-dir", folder / "run").ok()
    return folder / "run"


def scores(run: Path) -> dict[Path, int]:
    return {path.relative_to(run): path.stat().st_mtime_ns for path in run.glob("training/*/scores-*.json")}


def test_results_are_told_and_kept(values: Values, calm: Path, tmp_path: Path) -> None:
    before = scores(calm)
    again = siftune("study", study_file(tmp_path / "study.yaml", values, output_dir=str(calm))).ok()
    assert "## sums (n=5)" in again.out
    assert "## sorting (n=5)" in again.out
    assert re.search(r"\| bm25 +\| 10% +\| 4 ", again.out)
    assert "one training, no verdict" in again.out
    assert f"results: {calm / 'study.json'}" in again.out
    assert f"report:  {calm / 'study.html'}" in again.out
    assert "What can be told" in (calm / "study.html").read_text(encoding="utf-8")
    assert scores(calm) == before, "a second run computes nothing"


def test_a_preview_tells_what_is_left(values: Values, calm: Path, tmp_path: Path) -> None:
    told = siftune("study", study_file(tmp_path / "study.yaml", values), "--output-dir", calm, "--dry-run").ok().out
    assert told.endswith("5 cells, 5 done, nothing is left to do\n")
    fresh = siftune("study", study_file(tmp_path / "study.yaml", values), "--output-dir", tmp_path / "new", "--dry-run")
    assert re.search(r"5 cells, 0 done, about \d+ \S+ left\n$", fresh.ok().out)
    assert not (tmp_path / "new").exists()


def test_what_fails_is_listed_and_the_exit_code_says_so(values: Values, calm: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(calm, tmp_path / "run"))
    path = study_file(tmp_path / "study.yaml", values, methods=["bm25", "loss:round-robin"])
    failed = siftune("study", path, "--output-dir", run)
    assert failed.code == 1
    listed = [line for line in failed.err.splitlines() if line.startswith("failed selection: ")]
    assert len(listed) == 2
    assert "loss:round-robin, sums, 10%" in failed.err
    assert "hint: run the same command again" in failed.err
    assert "bm25" in failed.out
    for line in listed:
        assert "Traceback" in Path(line.rpartition("(")[2].rstrip(")")).read_text()


def test_mistakes_are_told_before_anything_is_read(values: Values, tmp_path: Path) -> None:
    def refused(*parts: str, **changes: Any) -> None:
        path = study_file(tmp_path / "study.yaml", values, **changes)
        siftune("study", path, "--output-dir", tmp_path / "run").refused(*parts)
        assert not (tmp_path / "run").exists()

    refused("unknown setting 'metods'", "did you mean 'methods'?", "study.yaml", metods=["less"])
    first = values["targets"][0]
    refused("two targets are called", targets=[first, first])
    refused("missing.jsonl", targets=[{**first, "test": ["missing.jsonl"]}])
    siftune("study", tmp_path / "none.yaml").refused("cannot read the configuration", "none.yaml")


def test_a_test_row_in_the_pool_is_refused_for_any_target(values: Values, tmp_path: Path) -> None:
    leaked = Path(values["targets"][1]["test"][0]).read_text().splitlines()[0]
    pool = tmp_path / "pool.jsonl"
    pool.write_text(Path(values["pool"][0]).read_text() + json.dumps({**json.loads(leaked), "id": "leaked"}) + "\n")
    changed = study_file(tmp_path / "study.yaml", values, pool=[str(pool)])
    siftune("study", changed, "--output-dir", tmp_path / "run").refused("1 pool row is also in the test file",
                                                                        "--overlap drop")
    dropped = siftune("study", study_file(tmp_path / "study.yaml", values, pool=[str(pool)], overlap="drop"),
                      "--output-dir", tmp_path / "run", "--dry-run").ok()
    assert "5 cells, 0 done" in dropped.out


@pytest.mark.slow
def test_killed_it_goes_on_to_the_same_results(values: Values, calm: Path, tmp_path: Path) -> None:
    run, path = tmp_path / "run", study_file(tmp_path / "study.yaml", values)
    running = start("study", path, "--output-dir", run)
    deadline = time.monotonic() + 240
    while len(scores(run)) < 3:
        assert running.poll() is None, f"it ended before the moment came:\n{running.communicate()[1]}"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    kept = scores(run)
    partial = json.loads((run / "study.json").read_text())
    assert not partial["complete"]
    siftune("study", path, "--output-dir", run).ok()
    now = scores(run)
    assert {path: now[path] for path in kept} == kept, "what was finished was not made again"
    results = [json.loads((folder / "study.json").read_text()) for folder in (run, calm)]
    assert timeless(results[0]) == timeless(results[1])
