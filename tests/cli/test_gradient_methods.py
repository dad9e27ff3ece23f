"""Every gradient method and form from the command line, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from siftune.pipeline import auto, recipes
from tests.cli.command import siftune
from tests.cli.conftest import Files
from tests.interrupt import stopped_after

FORMS = {
    "less": ("--method", "less"),
    "less, store-free": ("--method", "less", "--set", "projection=none"),
    "less, store-free by subtask": ("--method", "less", "--set", "projection=none", "--set", "directions=subtasks"),
    "less, last layer, damped": ("--method", "less", "--lora-layers", 1, "--set", "damping=0.1"),
    "less, centred": ("--method", "less", "--set", "center=true"),
    "gist": ("--method", "gist"),
    "logra": ("--method", "logra"),
    "logra, damped, last layer": ("--method", "logra", "--set", "damping=0.1", "--lora-layers", 1),
    "factgrass": ("--method", "logra", "--set", "projection=factgrass"),
}


def chosen(run: Path) -> list[str]:
    return [json.loads(line)["id"] for line in (run / "selected.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("form", FORMS)
def test_a_form_runs_and_selects_the_same_whatever_the_batches_and_workers(form: str, files: Files, tmp_path: Path,
                                                                           ) -> None:
    made = []
    for name, more in (("wide", ("--batch-tokens", 4096)), ("narrow", ("--batch-tokens", 1, "--shard-rows", 3)),
                       ("checkpointed", ("--checkpointing", "--batch-tokens", 100))):
        run = tmp_path / name
        siftune(*files.select, *FORMS[form], *more, "--output-dir", run).ok()
        made.append(chosen(run))
        assert (run / "report.html").is_file()
    assert made[0] == made[1] == made[2]
    siftune("doctor", tmp_path / "wide", "--model", "none").ok()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["less, store-free"])
def test_two_workers_select_the_same(form: str, files: Files, tmp_path: Path) -> None:
    siftune(*files.select, *FORMS[form], "--output-dir", tmp_path / "one").ok()
    siftune(*files.select, *FORMS[form], "--workers", 2, "--output-dir", tmp_path / "two").ok()
    assert chosen(tmp_path / "one") == chosen(tmp_path / "two")


@pytest.mark.parametrize("form", ["less, store-free", "gist", "logra"])
def test_an_interrupted_pass_continues_to_the_same_selection(form: str, files: Files, tmp_path: Path) -> None:
    siftune(*files.select, *FORMS[form], "--output-dir", tmp_path / "whole").ok()
    with stopped_after(2):
        assert siftune(*files.select, *FORMS[form], "--output-dir", tmp_path / "part").code == 130
    siftune(*files.select, *FORMS[form], "--output-dir", tmp_path / "part").ok()
    assert chosen(tmp_path / "part") == chosen(tmp_path / "whole")


@pytest.mark.parametrize("form", FORMS)
def test_plan_knows_every_form(form: str, files: Files, tmp_path: Path) -> None:
    told = siftune("plan", *files.select[1:], *FORMS[form], "--output-dir", tmp_path / "run").ok().out
    assert "GiB" in told
    assert ("warmup" in told) == ("logra" not in FORMS[form])
    assert not (tmp_path / "run").exists()


def test_features_of_an_earlier_run_serve_another_selector(files: Files, tmp_path: Path) -> None:
    siftune(*files.select, "--method", "gist", "--output-dir", tmp_path / "run").ok()
    shown = siftune("select", "--from", tmp_path / "run", "--selector", "round-robin", "--budget", 5).ok()
    assert "pool gradients" not in shown.err


@pytest.mark.parametrize(("arguments", "parts"), [
    (("--method", "less", "--set", "projection=logra"), ("projection", "Adam's direction", "sparse-jl")),
    (("--method", "gist", "--set", "target_rank=7"), ("target_rank", "up to 6")),
    (("--method", "logra", "--set", "projection=none"), ("projection", "logra")),
    (("--method", "less", "--set", "damping=-1"), ("damping",)),
    (("--method", "less", "--set", "projection=none", "--set", "damping=0.1"), ("damping", "projection=none")),
])
def test_what_does_not_fit_is_refused(arguments: tuple[object, ...], parts: tuple[str, ...], files: Files,
                                      tmp_path: Path) -> None:
    siftune(*files.select, *arguments, "--output-dir", tmp_path / "run").refused(*parts)


def test_centring_reads_the_same_features_and_says_where_there_is_nothing_to_centre(files: Files, tmp_path: Path,
                                                                                   ) -> None:
    siftune(*files.select, "--method", "less", "--set", "center=true", "--output-dir", tmp_path / "with").ok()
    told = json.loads((tmp_path / "with" / "manifest.json").read_text())
    assert all(0 < share < 1 for share in told["diagnostics"]["shared_by_all_rows"])
    siftune("select", "--from", tmp_path / "with", "--set", "center=false", "--output-dir", tmp_path / "without").ok()
    without = json.loads((tmp_path / "without" / "manifest.json").read_text())
    assert {s["reused"] for s in without["times"] if "features" in s["step"] or s["step"] == "warmup"} == {True}
    assert "shared_by_all_rows" not in without["diagnostics"]
    siftune(*files.select, "--method", "bm25", "--set", "center=true", "--output-dir", tmp_path / "words").refused(
        "bm25", "no setting 'center'")


def test_auto_takes_two_stages_where_these_alone_are_soon_enough(files: Files, tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    def between(situation: auto.Situation) -> auto.Advice:
        if situation.tokens:  # it is asked before the pool is read as well
            assert situation.kept == 8 / 40
            monkeypatch.setattr(auto, "PATIENCE", (situation.stages + situation.gradients) / 2)
        return auto.recommend(situation)

    monkeypatch.setattr(recipes, "recommend", between)
    flags = (*files.select, "--budget", 1, "--set", "less.warmup_epochs=3")
    told = siftune(*flags, "--method", "auto", "--output-dir", tmp_path / "auto").ok()
    assert "method auto: two-stage with round-robin (gradients at all checkpoints would take about" in told.err
    siftune(*flags, "--method", "two-stage", "--output-dir", tmp_path / "named").ok()
    assert chosen(tmp_path / "auto") == chosen(tmp_path / "named")
    made = json.loads((tmp_path / "auto" / "manifest.json").read_text())
    assert made["method"]["representation"] == "two-stage"
