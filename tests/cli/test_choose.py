"""`siftune choose` as a user types it: the answer, a preview, `select --choose`, and being killed."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.command import siftune, start
from tests.experiments.choices import timeless, write_files

Values = dict[str, Any]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of the rows, and a file of settings with which a choice has five trainings."""
    folder = tmp_path_factory.mktemp("choose")
    values = write_files(folder)
    told = {**values, "pool": list(values["pool"]), "target": list(values["target"]), "budget": 4, "epochs": 1,
            "random_trainings": 2, "arms": ["bm25", {"name": "plain", "method": "rds+", "settings": {"center": False}}]}
    (folder / "choose.yaml").write_text(yaml.safe_dump(told))
    return folder, folder / "choose.yaml"


@pytest.fixture(scope="module")
def calm(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A choice that nobody disturbed."""
    run = tmp_path_factory.mktemp("calm") / "run"
    siftune("choose", "--config", files[1], "--output-dir", run).ok()
    return run


def scores(run: Path) -> dict[Path, int]:
    return {path.relative_to(run): path.stat().st_mtime_ns for path in run.glob("training/*/scores-*.json")}


def test_it_prints_every_arm_the_answer_and_where_everything_is(files: tuple[Path, Path], calm: Path) -> None:
    before = scores(calm)
    again = siftune("choose", "--config", files[1], "--output-dir", calm).ok()
    results = json.loads((calm / "choice.json").read_text())
    for arm in ("bm25", "plain", "untuned", "random"):
        assert re.search(rf"^\| {arm}( \*)? ", again.out, re.MULTILINE), arm
    assert re.search(rf"^\| {results['take']} \* ", again.out, re.MULTILINE)
    assert f"results: {calm / 'choice.json'}" in again.out
    assert f"report:  {calm / 'report.html'}" in again.out
    assert ("subset:  " in again.out) == (results["selected"] is not None)
    assert "scored by loss: as asked" in again.err
    assert scores(calm) == before, "a second run computes nothing"
    assert results["methods"] == {"bm25": "bm25", "plain": "rds+ (center: False)"}


def test_a_preview_tells_trainings_and_time_and_writes_nothing(files: tuple[Path, Path], tmp_path: Path) -> None:
    told = siftune("choose", "--config", files[1], "--output-dir", tmp_path / "new", "--dry-run").ok().out
    assert re.search(r"^round 1: 4 rows +2 trainings on random rows, 4 of 2 arms$", told, re.MULTILINE)
    assert re.search(r"in all +at most 6 trainings, [\d,]+ tokens, about \d+ \S+, less what is there already$", told,
                     re.MULTILINE)
    assert re.search(r"scored on +8 target rows, in 2 folds: arms select with the 4 others", told)
    assert not (tmp_path / "new").exists()
    siftune("choose", "--config", files[1], "--output-dir", tmp_path / "new", "--within", "0.001s",
            "--dry-run").refused("a choice does not fit into 0.001s", "--within")
    assert not (tmp_path / "new").exists()


def test_a_time_is_expected_before_and_its_plan_kept(files: tuple[Path, Path], tmp_path: Path, calm: Path) -> None:
    run = Path(shutil.copytree(calm, tmp_path / "run"))
    before = scores(run)
    command = ("choose", "--config", files[1], "--within", "2h", "--output-dir", run)
    siftune(*command).ok()
    plan = (run / "choice-plan.json").read_bytes()
    expected = json.loads((run / "choice.json").read_text())["costs"]["expected_seconds"]
    assert 0 < expected < 7200
    assert "at most were expected" in siftune(*command).ok().out
    assert (run / "choice-plan.json").read_bytes() == plan
    assert json.loads((run / "choice.json").read_text())["costs"]["expected_seconds"] == expected
    assert scores(run) == before


def test_select_chooses_first_where_it_is_asked_to(files: tuple[Path, Path], calm: Path) -> None:
    before = scores(calm)
    chosen = siftune("select", "--choose", "--config", files[1], "--output-dir", calm).ok()
    assert f"results: {calm / 'choice.json'}" in chosen.out
    assert scores(calm) == before, "it is the same choice"
    siftune("select", "--choose", "--method", "bm25", "--config", files[1], "--output-dir", calm).refused(
        "'method' is not one of a choice", "arms")


def test_settings_of_a_choice_are_named_where_they_are_not_read(files: tuple[Path, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    siftune("select", "--config", files[1], "--output-dir", run).refused("`siftune c", "take it out, or run")
    other = tmp_path / "other.yaml"
    other.write_text("pool: [pool.jsonl]\narms: [bm25]\n")
    siftune("compare", "--config", other).refused("the setting 'arms' belongs to `siftune choose`")
    other.write_text("pool: [pool.jsonl]\nmethod: bm25\n")
    siftune("choose", "--config", other, "--output-dir", run).refused(
        "the setting 'method' is not one of a choice", "name what is tried under arms")


def test_a_selection_by_another_method_takes_the_choice_away(files: tuple[Path, Path], tmp_path: Path,
                                                             calm: Path) -> None:
    folder, _ = files
    run = Path(shutil.copytree(calm, tmp_path / "run"))
    siftune("select", "--pool", folder / "others.jsonl", "--target", folder / "target.jsonl", "--model",
            folder / "model", "--method", "longest", "--budget", 3, "--output-dir", run, "--recompute").ok()
    assert not (run / "choice.json").exists()
    assert 'id="choice"' not in (run / "report.html").read_text()


def test_results_that_were_edited_are_refused(calm: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(calm, tmp_path / "run"))
    told = json.loads((run / "choice.json").read_text())

    def refused(*parts: str, **changes: Any) -> None:
        (run / "choice.json").write_text(json.dumps({**told, **changes}))
        siftune("report", run).refused("choice.json", *parts)

    refused("names 'nobody', which is no arm", take="nobody")
    refused("a training of", trainings=[{**told["trainings"][0], "losses": [1.0]}])
    refused("written by a newer siftune", schema=99)
    refused("at: ", at="many")
    (run / "choice.json").write_text("{")
    siftune("report", run).refused("choice.json is not JSON")


@pytest.mark.slow
def test_killed_it_goes_on_to_the_same_results(files: tuple[Path, Path], calm: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    running = start("choose", "--config", files[1], "--output-dir", run)
    deadline = time.monotonic() + 240
    while len(scores(run)) < 5:
        assert running.poll() is None, f"it ended before the moment came:\n{running.communicate()[1]}"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    kept = scores(run)
    assert not (run / "choice.json").exists()
    siftune("choose", "--config", files[1], "--output-dir", run).ok()
    now = scores(run)
    assert {path: now[path] for path in kept} == kept, "what was finished was not made again"
    results = [json.loads((folder / "choice.json").read_text()) for folder in (run, calm)]
    assert timeless(results[0]) == timeless(results[1])
    if results[0]["selected"]:
        assert (run / "selected.jsonl").read_bytes() == (calm / "selected.jsonl").read_bytes()
