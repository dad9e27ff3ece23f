"""Killed (SIGKILL) in any phase, the same command run again ends with the results of an undisturbed run."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from siftune._common.files import read_json
from tests.cli.command import Result, siftune, start
from tests.cli.conftest import Files
from tests.cli.runs import check_run_folder, table
from tests.experiments.studies import timeless

pytestmark = pytest.mark.slow


def count(run: Path, pattern: str) -> int:
    return sum(1 for _ in run.glob(pattern))


SELECT: dict[str, Callable[[Path], bool]] = {
    "during warmup, before a checkpoint": lambda run: (run / "warmup/rows.json").exists(),
    "between two checkpoints of the warmup": lambda run: (run / "warmup/epoch-1/checkpoint.json").exists(),
    "at the first pool features": lambda run: count(run, "store/less/pool/epoch-1/shard-*.json") >= 1,
    "amid the pool features": lambda run: count(run, "store/less/pool/epoch-2/shard-*.json") >= 7,
    "at the target features": lambda run: count(run, "store/less/target-*/epoch-*/fingerprint.json") >= 1,
    "while the results are written": lambda run: (run / "selected.jsonl").exists(),
}
COMPARE: dict[str, Callable[[Path], bool]] = {
    "during the first training": lambda run: count(run, "training/*/checkpoints/*") >= 1,
    "in the last trainings": lambda run: count(run, "training/*/scores-*.json") >= 4,
}


def kill_when(reached: Callable[[Path], bool], run: Path, *command: Any, by: int = signal.SIGKILL) -> Result:
    """Start the command as a process and kill it at that moment, or soon after."""
    running = start(*command, "--output-dir", run)
    deadline = time.monotonic() + 240
    while not reached(run):
        assert running.poll() is None, f"it ended before the moment came:\n{running.communicate()[1]}"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    running.send_signal(by)
    out, err = running.communicate()
    return Result(running.poll() or 0, out, err)


def whole(run: Path) -> dict[str, Any]:
    """What must not depend on interruptions."""
    found: dict[str, Any] = {name: table(run / name) for name in ("selection.parquet", "scores.parquet")}
    found |= {name: (run / name).read_bytes() for name in ("selected.jsonl", "rejected_sample.jsonl", "targets.jsonl")}
    found["store"] = {path.relative_to(run): path.read_bytes() for path in run.glob("store/**/shard-*.safetensors")}
    if (run / "comparison.json").exists():
        found["comparison"] = timeless(read_json(run / "comparison.json"))
    return found


@pytest.fixture(scope="module")
def calm(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison that nobody disturbed."""
    run = tmp_path_factory.mktemp("calm") / "run"
    siftune(*files.compare, "--shard-rows", 2, "--output-dir", run).ok()
    return run


@pytest.mark.parametrize("moment", [moment for moment in SELECT if moment != "at the first pool features"])
def test_a_killed_select_continues(files: Files, calm: Path, tmp_path: Path, moment: str) -> None:
    run, command = tmp_path / "run", (*files.select, "--shard-rows", 2)
    kill_when(SELECT[moment], run, *command)
    shards = {path: path.stat().st_mtime_ns for path in run.glob("store/**/shard-*.safetensors")
              if path.with_suffix(".json").exists()}
    assert not (run / "manifest.json").exists()
    siftune(*command, "--output-dir", run).ok()
    undisturbed = whole(calm)
    del undisturbed["comparison"]
    assert whole(run) == undisturbed
    assert {path: path.stat().st_mtime_ns for path in shards} == shards  # what was finished was not made again
    check_run_folder_but_leftovers(run)


@pytest.mark.parametrize("moment", COMPARE)
def test_a_killed_compare_continues(files: Files, calm: Path, tmp_path: Path, moment: str) -> None:
    run, command = tmp_path / "run", (*files.compare, "--shard-rows", 2)
    kill_when(COMPARE[moment], run, *command)
    scores = {path: path.stat().st_mtime_ns for path in run.glob("training/*/scores-*.json")}
    assert not (run / "comparison.json").exists()
    siftune(*command, "--output-dir", run).ok()
    assert whole(run) == whole(calm)
    assert {path: path.stat().st_mtime_ns for path in scores} == scores
    check_run_folder_but_leftovers(run)


def test_ctrl_c_says_how_to_continue(files: Files, calm: Path, tmp_path: Path) -> None:
    run, command = tmp_path / "run", (*files.select, "--shard-rows", 2)
    stopped = kill_when(SELECT["at the first pool features"], run, *command, by=signal.SIGINT)
    assert stopped.code == 130
    assert stopped.err.endswith("interrupted: run the same command again to continue where it was\n")
    assert "Traceback" not in stopped.err
    assert not list(run.rglob("*.tmp"))
    siftune(*command, "--output-dir", run).ok()
    assert table(run / "selection.parquet") == table(calm / "selection.parquet")


def check_run_folder_but_leftovers(run: Path) -> None:
    """A process killed while it writes a file cannot remove the file's temporary; nothing else is left behind."""
    for path in run.rglob("*.tmp"):
        path.unlink()
    check_run_folder(run, pool_rows=40, selected=8)
