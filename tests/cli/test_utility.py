"""DELIFT from the command line, in all its stages, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.command import SMALL, siftune
from tests.cli.conftest import Files
from tests.cli.pools import jsonl, records
from tests.cli.runs import check_run_folder, ids_of
from tests.interrupt import stopped_after

POOL_ROWS = 18
STAGES = {(False, False): "facility-location", (True, False): "flqmi", (False, True): "flcg", (True, True): "flcmi"}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return jsonl(tmp_path_factory.mktemp("utility") / "pool.jsonl", records("messages", range(POOL_ROWS)))


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return jsonl(tmp_path_factory.mktemp("known") / "old.jsonl", records("messages", range(300, 303), "old"))


def arguments(files: Files, pool: Path) -> tuple[object, ...]:
    return ("select", "--model", files.model, "--pool", pool, "--budget", 5, "--method", "delift", *SMALL)


@pytest.mark.parametrize(("selector", "target", "existing", "more", "matrices"), [
    ("", False, False, (), {"pairs"}),
    ("", False, False, ("--set", "pairs=sparse", "--set", "nominees=2", "--set", "random_nominees=1"), {"pairs"}),
    ("", False, False, ("--set", "utility=logprob"), {"pairs"}),
    ("", True, False, (), {"target_pairs"}),
    ("flmi", True, False, (), {"pairs", "target_pairs"}),
    ("", False, True, (), {"pairs", "existing_pairs"}),
    ("", True, True, ("--set", "pairs=sparse", "--set", "nominees=2", "--set", "random_nominees=1"),
     {"pairs", "target_pairs", "existing_pairs"}),
])
def test_each_stage_makes_what_it_needs_and_its_run_folder_is_sound(
        selector: str, target: bool, existing: bool, more: tuple[object, ...], matrices: set[str], files: Files,
        pool: Path, known: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    given = [flag for name, wanted, value in (("--selector", selector, selector), ("--target", target, files.target),
                                              ("--existing", existing, known)) if wanted for flag in (name, value)]
    siftune(*arguments(files, pool), *given, *more, "--output-dir", run).ok()
    check_run_folder(run, pool_rows=POOL_ROWS, selected=5)
    manifest = json.loads((run / "manifest.json").read_text())
    told = manifest["diagnostics"]
    assert manifest["method"]["selector"] == (selector or STAGES[target, existing])
    assert {name for name in told if name.endswith("pairs") and isinstance(told[name], dict)} == matrices
    assert told["rows_put_behind"] == 0
    if "pairs=sparse" in more:
        assert told["pairs"]["share_of_all_pairs"] < 0.5
    assert "utility" in (run / "report.json").read_text()
    siftune("doctor", run, "--model", "none").ok()


def test_an_interrupted_run_continues_to_the_same_selection(files: Files, pool: Path, tmp_path: Path) -> None:
    run = (*arguments(files, pool), "--selector", "flmi", "--target", files.target, "--shard-rows", 3)
    siftune(*run, "--output-dir", tmp_path / "whole").ok()
    with stopped_after(9):
        assert siftune(*run, "--output-dir", tmp_path / "part").code == 130
    siftune(*run, "--output-dir", tmp_path / "part").ok()
    assert ids_of(tmp_path / "part") == ids_of(tmp_path / "whole")
    siftune("select", "--from", tmp_path / "part", "--selector", "flqmi", "--budget", 3,
            "--output-dir", tmp_path / "part").ok()
    steps = json.loads((tmp_path / "part" / "manifest.json").read_text())["times"]
    assert [step["reused"] for step in steps if step["step"].startswith("utility")] == [True]


@pytest.mark.slow
def test_two_workers_select_the_same(files: Files, pool: Path, tmp_path: Path) -> None:
    run = (*arguments(files, pool), "--shard-rows", POOL_ROWS)  # 14 examples a shard: two jobs
    siftune(*run, "--output-dir", tmp_path / "one").ok()
    siftune(*run, "--workers", 2, "--output-dir", tmp_path / "two").ok()
    assert ids_of(tmp_path / "one") == ids_of(tmp_path / "two")


@pytest.mark.parametrize(("more", "parts"), [
    (("--selector", "facility-location", "--set", "pairs=sparse", "--set", "nominees=0", "--set",
      "random_nominees=0"), ("nominees", "no pairs would be scored")),
    (("--selector", "flqmi"), ("similarities to targets",)),
    (("--selector", "flcg"), ("--existing",)),
    (("--selector", "facility-location", "--set", "utility=distanse"), ("distanse", "distance")),
    (("--selector", "facility-location", "--set", "pairs=spars"), ("spars", "did you mean 'sparse'")),
])
def test_what_does_not_fit_is_refused(more: tuple[object, ...], parts: tuple[str, ...], files: Files, pool: Path,
                                      tmp_path: Path) -> None:
    siftune(*arguments(files, pool), *more, "--output-dir", tmp_path / "run").refused(*parts)


def test_another_model_in_the_same_folder_is_refused_and_recompute_replaces(files: Files, pool: Path, tmp_path: Path,
                                                                            ) -> None:
    from tests import tiny

    run = (*arguments(files, pool), "--selector", "facility-location", "--output-dir", tmp_path / "run")
    siftune(*run).ok()
    other = tiny.save(tmp_path / "other", "gpt2", seed=3)
    siftune(*run, "--model", other).refused("another model", "--recompute")
    siftune(*run, "--model", other, "--recompute").ok()
