"""`siftune select --from RUN --selector X` for every selector, with options, quotas and existing rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from siftune.selectors import SELECTORS
from tests.cli.command import siftune
from tests.cli.conftest import Files
from tests.cli.pools import jsonl, records

CONTINUAL = {"flcg", "flcmi"}


def chosen(run: Path) -> list[str]:
    return [json.loads(line)["id"] for line in (run / "selected.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("selector", sorted(SELECTORS.names()))
def test_every_selector_works_on_the_features_of_a_finished_run(selector: str, finished: Path, tmp_path: Path) -> None:
    known = jsonl(tmp_path / "old.jsonl", records("messages", range(300, 304), "old"))
    more = ("--existing", known) if selector in CONTINUAL else ()
    run = tmp_path / "run"
    shown = siftune("select", "--from", finished, "--selector", selector, "--budget", 7, *more,
                    "--output-dir", run).ok()
    assert "pool gradients" not in shown.err, "the pool's features are reused"
    assert len(set(chosen(run))) == 7
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["method"]["selector"] == selector
    assert manifest["diagnostics"]["budget"]["rows"] == 7
    assert (run / "report.html").is_file()


def test_continual_selection_needs_existing_rows_and_says_so(finished: Path, tmp_path: Path) -> None:
    siftune("select", "--from", finished, "--selector", "flcg", "--output-dir", tmp_path / "run").refused("--existing")


def test_options_reach_the_selector_and_wrong_ones_are_refused(finished: Path, tmp_path: Path) -> None:
    run = ("select", "--from", finished, "--selector", "flmi", "--budget", 5, "--output-dir", tmp_path / "run")
    siftune(*run, "--set", "eta=0.5", "--set", "flmi.kernel=dense").ok()
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["flmi"]["eta"] == 0.5
    siftune(*run, "--set", "etha=1").refused("etha", "did you mean 'eta'", "--set")
    siftune(*run, "--set", "eta").refused("NAME=VALUE", "--set eta")
    siftune(*run, "--set", "eta=much").refused("flmi.eta", "number")
    siftune(*run, "--set", "kernel=danse").refused("danse", "dense")


def test_quotas_hold_and_impossible_ones_name_the_conflict(files: Files, finished: Path, tmp_path: Path) -> None:
    pool = [json.loads(line) for line in files.pool.read_text().splitlines()]
    lines = [json.dumps({**row, "group": "even" if i % 2 == 0 else "odd"}) for i, row in enumerate(pool)]
    grouped = jsonl(tmp_path / "pool.jsonl", lines)
    arguments = list(files.select)
    arguments[arguments.index("--pool") + 1] = grouped
    run = tmp_path / "run"
    siftune(*arguments, "--quota", "even=75%..", "--quota", "odd=1..2", "--output-dir", run).ok()
    even = {json.loads(line)["id"] for line in lines if json.loads(line)["group"] == "even"}
    taken = [row_id in even for row_id in chosen(run)]
    assert len(taken) == 8
    assert sum(taken) >= 6
    assert 1 <= 8 - sum(taken) <= 2
    told = siftune("report", run).ok()
    assert told.code == 0
    siftune("select", "--from", run, "--quota", "even=9..", "--output-dir", tmp_path / "b").refused("even: 9", "quotas")
    siftune("select", "--from", run, "--quota", "evn=2..", "--output-dir", tmp_path / "b").refused("evn")
    siftune("select", "--from", run, "--quota", "even", "--output-dir", tmp_path / "b").refused("GROUP=FLOOR..CEILING")
