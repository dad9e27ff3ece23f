"""What all commands have in common: settings files, JSON for programs, quiet, exit codes, completion, near misses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from siftune._common import progress
from siftune._common.errors import ConfigError, ModelError
from siftune.cli.output import SHORT_HELP
from siftune.evaluation.harness_files import task_of_rows
from siftune.models.sentence_embedding import load_sentence_model
from tests.cli.command import ROOT, SMALL, siftune
from tests.cli.conftest import Files
from tests.cli.pools import jsonl, record, records
from tests.cli.runs import ids_of


def result_of(*arguments: object, code: int = 0) -> dict:
    """The one JSON object that a command printed."""
    done = siftune(*arguments, "--json")
    assert done.code == code, done.err
    assert done.out.count("\n") == 1, done.out
    return json.loads(done.out)


def test_a_bare_command_shows_a_short_help() -> None:
    assert siftune().ok().out == SHORT_HELP + "\n"
    named = re.findall(r"^  siftune (\w+)", SHORT_HELP, re.MULTILINE)
    assert len(named) == 5
    assert all(siftune(name, "--help").ok().out.startswith(f"Usage: siftune {name} ") for name in named)


def test_init_writes_settings_that_select_takes_by_position(
        files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert siftune("init", files.pool, "--target", files.target, "--model", files.model,
                   "--output-dir", "runs/mine").ok().out == "run.yaml\n"
    text = (tmp_path / "run.yaml").read_text()
    assert "3 groups of the pool: x, y, z" in text
    assert "2 subtasks of the target: a, b" in text
    assert "Used: group, id, messages" in text
    found = result_of("select", "run.yaml", "--method", "random", "--budget", 4)
    assert (found["command"], found["rows"], found["folder"]) == ("select", 4, "runs/mine")
    assert found["ids"] == ids_of(tmp_path / "runs/mine")
    assert yaml.safe_load((tmp_path / "runs/mine/config.yaml").read_text())["model"] == str(files.model)


def test_init_says_what_is_wrong_with_files_and_keeps_what_is_there(tmp_path: Path) -> None:
    pool = jsonl(tmp_path / "pool.jsonl", [{"query_text": "a", "reply": "b"} for _ in range(3)])
    out = tmp_path / "run.yaml"
    siftune("init", pool, "--output", out).refused("found the keys query_text, reply", "pool.jsonl:1", "--columns")
    assert not out.exists()
    columns = ("--columns", "prompt=query_text,completion=reply", "--id-field", "none")
    siftune("init", pool, "--output", out, *columns).ok()
    written = yaml.safe_load(out.read_text())
    assert written["columns"] == ["prompt=query_text", "completion=reply"] or written["columns"] == [columns[1]]
    assert written["id_field"] == "none"
    before = out.read_text()
    siftune("init", pool, "--output", out, *columns).refused("run.yaml is there already", "--force")
    assert out.read_text() == before
    siftune("init", pool, "--output", out, "--force", *columns, "--max-length", 64).ok()
    assert yaml.safe_load(out.read_text())["max_length"] == 64


def test_init_turns_on_dropping_where_rows_cannot_be_used(tmp_path: Path) -> None:
    pool = jsonl(tmp_path / "p: #1.jsonl", [*records("alpaca", range(4)), '{"x": 1}'])
    siftune("init", pool, "--output", tmp_path / "run.yaml").ok()
    written = yaml.safe_load((tmp_path / "run.yaml").read_text())
    assert (written["bad_rows"], written["pool"]) == ("drop", [str(pool)])
    assert "1 of the pool cannot be used" in (tmp_path / "run.yaml").read_text()


def test_a_settings_file_stands_by_itself_or_behind_config_but_not_both(files: Files, tmp_path: Path) -> None:
    given = tmp_path / "given.yaml"
    values = {"pool": str(files.pool), "model": str(files.model), "method": "random", "budget": 3}
    given.write_text(yaml.safe_dump(values))
    for how in ([given], ["--config", given]):
        out = tmp_path / f"run-{len(how)}"
        siftune("select", *how, "--output-dir", out).ok()
        assert len(ids_of(out)) == 3
    siftune("select", given, "--config", given).refused("two settings files", "name one of them")
    siftune("select", files.pool).refused("takes a settings file by itself", f"--pool {files.pool}", "siftune init")


@pytest.mark.parametrize("arguments", [
    ["select", "{}"], ["select", "--config", "{}"], ["study", "{}"], ["compare", "{}"], ["plan", "{}"]])
def test_a_misspelt_settings_file_meets_the_nearest_one(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "mine.yaml").write_text("budget: 5%\n")
    typed = [argument.format(tmp_path / "mien.yaml") for argument in arguments]
    siftune(*typed).refused(f"did you mean {tmp_path / 'mine.yaml'}?")


def test_every_other_file_or_folder_that_is_missing_meets_the_nearest_one(
        files: Files, finished: Path, tmp_path: Path) -> None:
    wrong, right = f"{finished}s", f"did you mean {finished}?"
    for command in (["report", wrong], ["export", wrong], ["doctor", wrong], ["select", "--from", wrong, "--output-dir",
                                                                              tmp_path / "x"]):
        siftune(*command).refused(right)
    inside = files.pool.parent.with_name(files.pool.parent.name + "x") / files.pool.name
    siftune("inspect", inside).refused("no such folder", f"did you mean {files.pool}?")
    ids = tmp_path / "ids.txt"
    ids.write_text("row001\n")
    siftune(*files.select, "--method", "random", "--must-include", tmp_path / "idz.txt", "--output-dir", tmp_path / "r",
            ).refused(f"did you mean {ids}?")


def test_a_misspelt_folder_of_a_model_meets_the_nearest_one(
        files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a path, and by two names, which might be a hub id."""
    models = tmp_path / "models"
    models.mkdir()
    (models / "mine").symlink_to(files.model, target_is_directory=True)
    (models / "minilm").mkdir()
    (tmp_path / "rows.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    siftune("inspect", files.pool, "--model", models / "mien").refused(f"did you mean {models / 'mine'}?")
    siftune("inspect", files.pool, "--model", "models/mien").refused("did you mean models/mine?")
    with pytest.raises(ModelError, match="did you mean models/minilm"):
        load_sentence_model("./models/miniml")
    with pytest.raises(ConfigError, match=r"did you mean .*rows\.jsonl\?"):
        task_of_rows(tmp_path / "rosw.jsonl")


def test_every_command_has_one_json_object(files: Files, copy: Callable[[], Path], tmp_path: Path) -> None:
    run = copy()
    assert [Path(name).name for name in result_of("report", run)["files"]] == ["report.html", "report.json"]
    exported = result_of("export", run, "--to", "trl")
    assert exported["rows"] == 8
    assert all(Path(name).is_file() for name in exported["files"])
    inspected = result_of("inspect", files.pool, "--model", files.model)
    assert inspected["stats"]["rows"] == 40
    assert inspected["sources"][0]["formats"] == {"messages": 40}
    planned = result_of("plan", *files.select[1:])
    assert planned["seconds"] > 0
    assert planned["lines"]["budget"] == "8 = 8 rows"
    checked = result_of("doctor", run, "--model", "none")
    assert checked["ok"]
    assert {check["status"] for check in checked["checks"]} <= {"ok", "-"}
    assert result_of("schema", "select")["title"] == "Settings of siftune"
    assert result_of("init", files.pool, "--output", tmp_path / "i.yaml")["files"] == [str(tmp_path / "i.yaml")]
    everything = result_of("methods")
    assert {"less", "bm25"} <= {method["name"] for method in everything["methods"]}
    one = result_of("methods", "less-round-robin")
    assert [part["name"] for part in one["parts"]] == ["less", "round-robin"]
    assert "warmup_epochs" in {setting["name"] for setting in one["parts"][0]["settings"]}


def test_the_json_of_a_comparison_has_every_arm_and_that_of_a_broken_store_the_fault(
        files: Files, copy: Callable[[], Path], tmp_path: Path) -> None:
    compared = result_of(*files.compare, "--methods", "bm25", "--exact-match-tokens", 0, "--seeds", 1, "--output-dir",
                         tmp_path / "compared")
    losses = {arm["name"]: arm["mean"] for arm in compared["arms"] if arm["metric"] == "loss"}
    assert set(losses) == {"zero-shot", "random", "bm25"}
    assert all(isinstance(loss, float) for loss in losses.values())
    assert compared["failed"] is False
    run = copy()
    shard = next(path for path in (run / "store").rglob("shard-*") if path.suffix not in (".json", ""))
    shard.write_bytes(b"x" + shard.read_bytes()[1:])
    broken = result_of("doctor", run, "--model", "none", code=1)
    assert not broken["ok"]
    assert "FAIL" in {check["status"] for check in broken["checks"]}


def test_a_mistake_is_json_too_and_a_line_for_people(tmp_path: Path) -> None:
    mistakes = {("inspect", tmp_path / "no.jsonl"): "no such file", ("select", "--bugdet", "5%"): "bugdet"}
    for arguments, said in mistakes.items():
        done = siftune(*arguments, "--json")
        assert done.code == 2
        told = json.loads(done.out)
        assert told["exit_code"] == 2
        assert said in told["error"]["what"]
        assert told["error"]["hint"] in done.err


def test_quiet_leaves_results_and_warnings(files: Files, tmp_path: Path) -> None:
    pool = jsonl(tmp_path / "pool.jsonl", [*records("messages", range(40)), record("alpaca", 99, id="x"), '{"y": 1}'])
    arguments = ("select", "--model", files.model, "--pool", pool, "--target", files.target, "--budget", 8, *SMALL,
                 "--bad-rows", "drop", "--format", "mixed", "--output-dir", tmp_path / "quiet")
    quiet = siftune(*arguments, "--quiet").ok()
    assert quiet.out.startswith("selected 8 of 41")
    assert quiet.err.strip()
    assert all(line.startswith("warning: ") for line in quiet.err.splitlines())
    assert progress._warnings_only is False  # it ends with the command


def test_a_speed_is_told_in_words_that_fit_it() -> None:
    assert [progress.pace(rate, unit) for rate, unit in (
        (1234.5, "tokens"), (12, "rows"), (2.54, "rows"), (0.5, "steps"), (1 / 12, "steps"), (1 / 200, "cells"))] == [
        "1,234 tokens/s", "12 rows/s", "2.5 rows/s", "2.0 s a step", "12 s a step", "3 min a cell"]
    told = [progress.pace(10.0 ** -power, "steps") for power in range(-6, 6)]
    assert not any(re.match(r"0(\.0)? ", one) for one in told), told


def test_the_units_of_every_bar_make_words_with_a_speed() -> None:
    """``12 s a step`` takes the unit's last letter off."""
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "src/siftune").rglob("*.py")]
    units = {unit for text in sources for unit in re.findall(r"\bbar\(.*, \"([^\"]+)\"\)", text)}
    assert {"steps", "tokens"} <= units
    assert [unit for unit in units - {"MB"} if not re.fullmatch(r"[a-z]+s", unit)] == []


def test_colours_are_left_out_where_no_color_is_set(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a terminal, where the mask would be told by colour alone."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    shown = []
    for _ in range(2):
        shown.append(siftune("inspect", files.pool, "--model", files.model, "--show", 1).ok().out)
        monkeypatch.setenv("NO_COLOR", "1")
    colour = r"\x1b\[[0-9;]*3[0-9]"
    assert re.search(colour, shown[0])
    assert "[[" not in shown[0]
    assert not re.search(colour, shown[1])
    assert "[[" in shown[1]


def test_the_shell_completes_commands_flags_and_names() -> None:
    def completed(line: str) -> set[str]:
        words = line.split(" ")
        environment = {**os.environ, "_SIFTUNE_COMPLETE": "complete_bash", "COMP_WORDS": line,
                       "COMP_CWORD": str(len(words) - 1)}
        code = "import sys; sys.argv = ['siftune']; from siftune.cli import main; main()"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True,
                              check=False)
        return set(done.stdout.split())

    assert completed("siftune sel") == {"select"}
    assert {"--budget", "--bad-rows"} <= completed("siftune select --b")
    assert completed("siftune select --method less-") == {"less-round-robin", "less-ot"}


def test_the_page_tells_every_exit_code_that_there_is() -> None:
    page = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    codes = set(map(int, re.findall(r"^\| (\d+) \|", page, re.MULTILINE)))
    assert {0, 1, 2, 130} <= codes
    used = {int(code) for path in (ROOT / "src/siftune/cli").glob("*.py")
            for code in re.findall(r"(?:exit|Exit)\((\d+)\)", path.read_text(encoding="utf-8"))}
    assert used <= codes
    commands = set(re.findall(r"^\| `siftune (\w+)", page, re.MULTILINE))
    listed = siftune("--help").ok().out.split("Commands:")[1]
    assert commands == {line.split()[0] for line in listed.splitlines() if line.strip()}


def test_every_printed_result_has_its_json() -> None:
    """A command that prints by itself would print text with ``--json``."""
    source = (ROOT / "src/siftune/cli/app.py").read_text(encoding="utf-8")
    commands = source.split("@app.callback")[0]
    assert re.findall(r"^ +print\(", commands, re.MULTILINE) == []


@pytest.mark.parametrize("command", ["inspect", "init"])
def test_where_files_stand_is_told_to_who_gives_them_by_a_flag(command: str) -> None:
    siftune(command, "--pool", "pool.jsonl").refused("--pool", f"siftune {command} pool.jsonl")
