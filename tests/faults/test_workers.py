"""Killed worker processes: the run ends by itself with the same selection; what kills every worker is named."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from siftune import execution
from siftune.execution import LocalExecutor
from siftune.experiments.run import study
from tests.cli.command import siftune, start
from tests.cli.runs import table, temporary_files
from tests.execution.test_local import alive
from tests.experiments.studies import config, timeless, write_files
from tests.faults.deadly import deadly

pytestmark = pytest.mark.slow

Killing = Callable[[dict[str, int]], Path]


@pytest.fixture
def killing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Killing:
    """Has chosen jobs kill their workers; returns the folder with a file for each time that one did."""
    def chosen(kills: dict[str, int]) -> Path:
        real, marks = execution.executor_of, tmp_path / "marks"
        monkeypatch.setattr(execution, "executor_of", lambda *a, **k: deadly(real(*a, **k), kills, marks))
        return marks

    return chosen


def command(files: dict[str, Path], run: Path, *more: Any) -> tuple[Any, ...]:
    return ("select", "--model", files["model"], "--pool", files["pool"], "--target", files["target"], "--budget", 8,
            "--max-length", 128, "--method", "rds+", "--shard-rows", 4, "--output-dir", run, *more)


def selection(run: Path) -> Any:
    return (run / "selected.jsonl").read_bytes(), table(run / "selection.parquet"), table(run / "scores.parquet")


def shards(run: Path) -> dict[str, tuple[int, bytes]]:
    """Name of each whole shard of the pool: when it was written, and its bytes."""
    return {path.stem: (path.stat().st_mtime_ns, path.read_bytes())
            for path in run.glob("store/rds/pool/base/*.safetensors") if path.with_suffix(".json").exists()}


@pytest.fixture(scope="module")
def calm(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("calm") / "run"
    siftune(*command(files, run)).ok()
    return run


def test_killed_workers_are_replaced_and_the_selection_is_the_same(files: dict[str, Path], calm: Path,
                                                                    killing: Killing, tmp_path: Path) -> None:
    marks = killing({"shard-00002 of rds/pool": 1, "shard-00007 of rds/pool": 1})
    told = siftune(*command(files, tmp_path / "run", "--workers", 2)).ok()
    assert len(list(marks.iterdir())) == 2
    assert told.err.count("another one takes it over") == 2
    assert selection(tmp_path / "run") == selection(calm)
    assert {name: content for name, (_, content) in shards(tmp_path / "run").items()} == {
        name: content for name, (_, content) in shards(calm).items()}
    assert not temporary_files(tmp_path / "run")


def test_a_shard_that_kills_its_workers_is_named_with_its_rows_and_the_others_are_kept(
        files: dict[str, Path], calm: Path, killing: Killing, tmp_path: Path) -> None:
    run, kills = tmp_path / "run", {"shard-00003 of rds/pool": 1000}
    marks = killing(kills)
    siftune(*command(files, run, "--workers", 2)).refused(
        "1 shard could not be computed, since the worker was lost twice", "shard-00003 of rds/pool/base: 4 rows",
        "pool.jsonl:13", "pool.jsonl:16", "killed by SIGKILL", "All other shards are done and kept", "--shard-rows")
    kept = shards(run)
    assert len(kept) == 9
    assert len(list(marks.iterdir())) == 2
    # It does not kill the command itself where it is all that is left to do.
    siftune(*command(files, run, "--workers", 2, "--worker-tries", 3)).refused("the worker was lost 3 times",
                                                                               "shard-00003")
    assert len(list(marks.iterdir())) == 5
    assert shards(run) == kept
    kills.clear()
    siftune(*command(files, run, "--workers", 2)).ok()
    assert selection(run) == selection(calm)
    again = shards(run)
    del again["shard-00003"]
    assert again == kept, "what was complete was not made again"


def test_a_training_that_kills_its_workers_has_failed_and_the_others_are_done(tmp_path: Path) -> None:
    values = write_files(tmp_path)
    brief = {"methods": ["bm25"], "headline": None, "budgets": ["10%"], "headline_seeds": None}
    here = study(config(tmp_path, values, "here", **brief))
    there = config(tmp_path, values, "there", workers=2, **brief)
    found = study(there, executor=deadly(LocalExecutor(2), {"bm25": 1000, "random": 1}, tmp_path / "marks"))
    cells = found.results.to_dict()["cells"]
    assert {cell["status"] for cell in cells} == {"done", "failed"}
    for cell in cells:
        assert (cell["status"] == "failed") == ("bm25" in str(cell["subset"])), cell
        assert ("the worker was lost twice (killed by SIGKILL)" in cell["error"]) == (cell["status"] == "failed")
    scores = {path: path.stat().st_mtime_ns for path in (tmp_path / "there").glob("training/*/scores-*.json")}
    again = study(config(tmp_path, values, "there", **brief))
    assert timeless(again.results.to_dict()) == timeless(here.results.to_dict())
    assert {path: path.stat().st_mtime_ns for path in scores} == scores


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
@pytest.mark.parametrize("group", [True, False])
def test_ctrl_c_with_several_workers_says_how_to_continue(group: bool, files: dict[str, Path], tmp_path: Path) -> None:
    """From a terminal, which sends it to all processes of the command, and to the command alone."""
    run = tmp_path / "run"
    arguments = command(files, run, "--workers", 2, "--shard-rows", 1)
    running = start(*arguments)
    while not list(run.glob("store/rds/pool/base/shard-*.json")):
        assert running.poll() is None, running.communicate()
        time.sleep(0.01)
    workers = descendants(running.pid)
    assert len(workers) >= 3, "the two, and what they were forked from"
    if group:
        os.killpg(running.pid, signal.SIGINT)
    else:
        running.send_signal(signal.SIGINT)
    _, told = running.communicate()
    assert running.poll() == 130
    assert told.endswith("interrupted: run the same command again to continue where it was\n")
    assert "Traceback" not in told
    while any(map(alive, workers)):
        time.sleep(0.05)  # the limit of the test is the limit of this
    assert not temporary_files(run)
    assert not (run / ".siftune.lock").exists()
    kept = shards(run)
    siftune(*arguments).ok()
    siftune(*command(files, tmp_path / "calm", "--shard-rows", 1)).ok()
    assert selection(run) == selection(tmp_path / "calm")
    assert {name: shards(run)[name] for name in kept} == kept


def descendants(process: int) -> list[int]:
    """All processes that a process has started, and those that these have."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
    found, more = [], [process]
    while more:
        more = [child for child, parent in parents.items() if parent in more]
        found += more
    return found
