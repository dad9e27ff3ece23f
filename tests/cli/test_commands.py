"""Every other command on a real run folder, and what all commands have in common."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import siftune as package
from siftune._common.files import read_json
from siftune.data.readers import read_rows
from tests.cli.command import SMALL, TRAINING, process, siftune
from tests.cli.conftest import Files
from tests.cli.pools import jsonl, record, records
from tests.cli.runs import check_run_folder, ids_of, lines, objects, table, temporary_files

COMMANDS = ("select", "choose", "compare", "study", "plan", "inspect", "report", "export", "methods", "doctor", "init",
            "schema")


def test_help_names_every_command_and_each_has_its_own() -> None:
    overview = siftune("--help").ok().out
    assert [line.split()[0] for line in overview.split("Commands:")[1].splitlines() if line.strip()] == list(COMMANDS)
    for command in COMMANDS:
        own = siftune(command, "--help").ok().out
        assert own.startswith(f"Usage: siftune {command}")
        assert own == siftune(command, "-h").ok().out


@pytest.mark.parametrize(("command", "flags"), [
    ("select", ["--pool", "--target", "--model", "--budget", "--output-dir", "--from", "--config", "--bad-rows"]),
    ("choose", ["--validation", "--within", "--arms", "--metric", "--folds", "--seed", "--budget", "--dry-run"]),
    ("compare", ["--test", "--methods", "--baselines", "--seeds", "--budget", "--output-dir"]),
    ("doctor", ["--repair", "--model"]), ("export", ["--to", "--output"]), ("inspect", ["--show", "--format"]),
])
def test_help_lists_the_flags(command: str, flags: list[str]) -> None:
    own = siftune(command, "--help").ok().out
    assert [flag for flag in flags if f" {flag} " not in own] == []


def test_version_and_module() -> None:
    assert siftune("--version").ok().out.strip() == package.__version__
    assert process("--version").ok().out.strip() == package.__version__


def test_the_command_without_anything_shows_its_help() -> None:
    shown = siftune()
    assert "Commands:" in shown.out + shown.err


def test_methods_names_whatever_select_accepts() -> None:
    from siftune.config.catalogue import METHODS, RECIPES, SELECTORS

    told = [line.split()[0] for line in siftune("methods").ok().out.splitlines() if line[:3].strip() and line[0] == " "]
    assert set(told) == {"auto", *RECIPES, *METHODS.names(), *SELECTORS.names()}


def test_a_name_that_is_nothing_meets_each_known_name_once() -> None:
    from siftune.config.catalogue import METHODS, RECIPES, SELECTORS

    told = siftune("methods", "zzzz").refused("choose one of").err
    names = told.split("choose one of: ")[1].splitlines()[0].split(", ")
    assert names == sorted({*RECIPES, *METHODS.names(), *SELECTORS.names()})


def test_inspect_counts_what_is_there_and_lists_what_cannot_be_used(files: Files, tmp_path: Path) -> None:
    pool = jsonl(tmp_path / "pool.jsonl", [*records("alpaca", range(10)), record("alpaca", 3, id="again"), '{"x": 1}'])
    shown = siftune("inspect", pool, "--model", files.model, "--show", 2).ok().out
    counts = {line.split(":")[0]: line.split(":", 1)[1].split() for line in shown.splitlines() if ":" in line}
    assert counts["rows"] == ["11"]
    assert counts["dropped"] == ["1"]
    assert counts["by format"] == ["alpaca", "11"]
    assert counts["exact duplicates"] == ["1"]
    assert f"{pool}:12" in shown.replace("\n", "")
    assert "unknown-format" in shown
    assert shown.count("supervised [[so]]") == 2  # no colours in a file
    assert "[[The answer is 2." in shown
    assert "The answer is 2." in shown


def test_plan_tells_time_memory_and_disk_and_writes_nothing(files: Files, tmp_path: Path) -> None:
    told = siftune("plan", *files.select[1:], "--output-dir", tmp_path / "run").ok().out
    lines = dict(line.split(None, 1) for line in told.splitlines())
    assert {"budget", "pool", "speed", "warmup", "features", "total", "memory", "disk"} <= set(lines)
    assert lines["budget"] == "8 = 8 rows"
    assert not list(tmp_path.iterdir())
    siftune("plan", *files.select[1:], "--budget", 1000).refused("--budget")


def test_report_is_written_again_as_it_was(copy: Callable[[], Path]) -> None:
    run = copy()
    before = {name: (run / name).read_bytes() for name in ("report.html", "report.json")}
    for name in before:
        (run / name).unlink()
    told = siftune("report", run).ok().out.split()
    assert told == [str(run / "report.html"), str(run / "report.json")]
    assert {name: (run / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("to", ["jsonl", "trl", "llamafactory", "axolotl"])
def test_export_writes_the_selected_conversations_in_order(finished: Path, tmp_path: Path, to: str) -> None:
    form = () if to == "jsonl" else ("--form", "messages")
    told = siftune("export", finished, "--to", to, *form, "--output", tmp_path / "out").ok().out.splitlines()
    assert {Path(line) for line in told} == set((tmp_path / "out").iterdir())
    written, _ = read_rows([tmp_path / "out/selected.jsonl"], role="pool", format="mixed")
    selected, _ = read_rows([finished / "selected.jsonl"], role="pool")
    assert [row.id for row in written] == ids_of(finished)
    assert [row.messages for row in written] == [row.messages for row in selected]


def test_export_goes_into_the_run_folder_when_nothing_else_is_said(copy: Callable[[], Path]) -> None:
    run = copy()
    siftune("export", run, "--to", "trl").ok()
    assert len(lines(run / "export-trl/selected.jsonl")) == 8
    check_run_folder(run, pool_rows=40, selected=8)


def test_export_reads_the_rows_in_the_format_they_were_selected_in(files: Files, tmp_path: Path) -> None:
    both = [{**record("alpaca", i, id=f"row{i}"), **record("messages", i + 50)} for i in range(4)]
    pool = jsonl(tmp_path / "pool.jsonl", both)
    siftune("select", "--model", files.model, "--pool", pool, "--format", "alpaca", "--method", "random", "--budget", 4,
            "--output-dir", tmp_path / "run").ok()
    siftune("export", tmp_path / "run", "--to", "trl", "--form", "messages", "--output", tmp_path / "out").ok()
    asked = {row["id"]: row["prompt"][0]["content"].strip() for row in objects(tmp_path / "out/selected.jsonl")}
    assert asked == {row["id"]: row["instruction"] for row in both}


def test_doctor_checks_the_environment_the_model_of_the_run_and_its_stores(files: Files, finished: Path) -> None:
    told = siftune("doctor", finished).ok().out
    assert "FAIL" not in told
    assert f"{files.model}: LlamaForCausalLM" in told
    assert told.count("40 rows in 5 shards") == 2  # one store a checkpoint
    assert "alone and in one batch differ by" in told


def test_doctor_follows_a_run_to_the_features_it_used_and_knows_runs_without(finished: Path, files: Files,
                                                                             tmp_path: Path) -> None:
    siftune("select", "--from", finished, "--budget", 3, "--output-dir", tmp_path / "second").ok()
    assert siftune("doctor", tmp_path / "second", "--model", "none").ok().out.count("40 rows in 5 shards") == 2
    siftune(*files.select, "--method", "random", "--output-dir", tmp_path / "random").ok()
    assert "no features" in siftune("doctor", tmp_path / "random", "--model", "none").ok().out


def steps(run: Path) -> dict[str, bool]:
    """Whether each step of a run was reused, by the step's name without what stands in brackets."""
    return {entry["step"].split(" (")[0]: entry["reused"] for entry in read_json(run / "manifest.json")["times"]}


def test_compare_trains_and_scores_every_arm_and_says_it_in_a_table(files: Files, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = siftune(*files.compare, "--baselines", "longest", "--output-dir", run).ok()
    check_run_folder(run, pool_rows=40, selected=8)
    told = read_json(run / "comparison.json")
    assert [arm["name"] for arm in told["arms"]] == ["zero-shot", "random", "longest", "less-round-robin"]
    assert len(told["targets"][0]["test_ids"]) == 6
    for arm in told["arms"]:
        assert set(arm["subtasks"]) == {"a", "b"}
        assert len(arm["loss"]["per_seed"]) == max(1, arm["trainings"])
        assert arm["name"] in result.out
    assert {(t["method"], t["against"]) for t in told["tests"]} == {
        ("less-round-robin", "random"), ("less-round-robin", "longest")}
    tested = sum(test["p_value"] is not None for test in told["tests"])
    assert f"by Holm's method over {tested} comparisons" in result.out
    assert json.dumps(told["arms"][1]["loss"]["mean"])[:6] in (run / "report.json").read_text()
    assert not temporary_files(run)

    again = siftune(*files.compare, "--baselines", "longest", "--output-dir", run).ok()
    assert again.out == result.out
    assert steps(run)["train and score"]
    assert siftune("compare", "--config", run / "config.yaml").ok().out == result.out
    assert yaml.safe_load((run / "config.yaml").read_text())["baselines"] == ["longest"]


def test_compare_scores_a_selection_made_before_without_selecting_again(copy: Callable[[], Path], files: Files) -> None:
    run = copy()
    before = (run / "selected.jsonl").read_bytes(), table(run / "scores.parquet")
    siftune(*files.compare, "--output-dir", run).ok()
    assert before == ((run / "selected.jsonl").read_bytes(), table(run / "scores.parquet"))
    assert steps(run)["pool features"]
    assert not steps(run)["train and score"]


def test_compare_may_name_several_methods_and_selects_with_the_first(files: Files, tmp_path: Path) -> None:
    run = tmp_path / "run"
    siftune("compare", *files.select[1:], "--test", files.test, *TRAINING, "--methods", "less:top-k-mean",
            "--methods", "less-round-robin", "--methods", "random", "--seeds", 1, "--output-dir", run).ok()
    assert [arm["name"] for arm in read_json(run / "comparison.json")["arms"]] == [
        "zero-shot", "random", "less:top-k-mean", "less-round-robin"]
    siftune(*files.select, "--method", "less:top-k-mean", "--output-dir", tmp_path / "alone").ok()
    assert ids_of(run) == ids_of(tmp_path / "alone")
    assert (run / "selected.jsonl").read_bytes() == (tmp_path / "alone/selected.jsonl").read_bytes()


def test_results_go_to_stdout_and_everything_else_to_stderr(files: Files, tmp_path: Path) -> None:
    result = siftune("select", "--model", files.model, "--pool", files.pool, "--target", files.target, "--budget", 5,
                     *SMALL, "--output-dir", tmp_path / "run").ok()
    first, *_ = result.out.splitlines()
    assert first.startswith("selected 5 of 40 usable rows")
    assert f"report:  {tmp_path / 'run/report.html'}" in result.out
    assert "method auto: less with round-robin (a target is given" in result.err
