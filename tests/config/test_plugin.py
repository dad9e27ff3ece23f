"""A method and a selector of an installed package are as good as siftune's own; a broken package ends nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from siftune.config.catalogue import METHODS, SELECTORS
from tests.cli.command import ROOT, siftune
from tests.experiments.studies import study_file, write_files

NAME, SELECTOR = "word-overlap", "strided-top"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template, installed with pip into a folder of its own."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(ROOT / "examples" / "plugin", folder / "source")  # a build leaves files behind
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(folder / "site"), str(folder / "source")], check=True, capture_output=True)
    return folder / "site"


def forget() -> None:
    for registry in (METHODS, SELECTORS):
        registry.__dict__.pop("_plugins", None)
        registry._loaded.clear()


@pytest.fixture
def plugin(installed: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(installed)
    forget()
    yield
    for name in [name for name in sys.modules if name.startswith("siftune_word_overlap")]:
        del sys.modules[name]
    monkeypatch.undo()
    forget()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("files")
    return folder, write_files(folder)


def ids(run: Path) -> list[str]:
    return [json.loads(line)["id"] for line in (run / "selected.jsonl").read_text().splitlines()]


def flags(values, run: Path, *more: object) -> tuple[object, ...]:
    return ("--model", values["model"], "--pool", values["pool"][0], "--target", values["targets"][0]["target"][0],
            "--budget", 6, "--max-length", 128, *more, "--output-dir", run)


@pytest.mark.usefixtures("plugin")
def test_its_settings_are_shown_with_default_and_range() -> None:
    shown = siftune("methods", NAME).ok().out
    assert "min_letters" in shown
    assert "default: 4" in shown
    assert "from 1 to 40" in shown
    assert "--set min_letters=4" in shown
    listed = siftune("methods").ok().out
    assert NAME in listed
    assert SELECTOR in listed


@pytest.mark.usefixtures("plugin")
def test_select_plan_and_report_take_it_with_its_settings(files, tmp_path: Path) -> None:
    _, values = files
    siftune("select", *flags(values, tmp_path / "a", "--method", NAME)).ok()
    siftune("select", *flags(values, tmp_path / "b", "--method", NAME, "--set", "min_letters=2", "--set",
                             f"{SELECTOR}.stride=3")).ok()
    assert len(set(ids(tmp_path / "b"))) == 6
    assert ids(tmp_path / "b") != ids(tmp_path / "a")
    config = yaml.safe_load((tmp_path / "b" / "config.yaml").read_text())
    assert (config[NAME], config[SELECTOR]) == ({"min_letters": 2, "length_power": 0.5}, {"stride": 3})
    siftune("select", "--config", tmp_path / "b" / "config.yaml", "--output-dir", tmp_path / "c").ok()
    assert ids(tmp_path / "c") == ids(tmp_path / "b"), "its config.yaml replays a run"
    report = json.loads((tmp_path / "b" / "report.json").read_text())
    assert report["summary"]["method"]["representation"] == NAME
    assert report["summary"]["method"]["selector"] == SELECTOR
    assert "no model is run" in siftune("plan", *flags(values, tmp_path / "d", "--method", NAME)).ok().out
    siftune("select", *flags(values, tmp_path / "e", "--method", NAME, "--set", "min_leters=2")).refused(
        "did you mean 'min_letters'?")
    siftune("select", *flags(values, tmp_path / "e", "--method", NAME, "--set", "min_letters=41")).refused(
        f"{NAME}.min_letters cannot be 41", "from 1 to 40")


@pytest.mark.usefixtures("plugin")
def test_a_study_compares_it_and_varies_its_settings(files) -> None:
    folder, values = files
    path = study_file(folder / "plugin.yaml", {**values, "targets": values["targets"][:1]}, methods=[NAME, "bm25"],
                      headline=None, headline_seeds=None, budgets=["10%"], output_dir=str(folder / "study"),
                      less=None, logra=None, **{NAME: {"min_letters": 2}}, ablations=[
                          {"name": "long-words", "method": NAME, "settings": {"min_letters": 6}},
                          {"name": "strides", "method": NAME, "settings": {"stride": 5}}])
    siftune("study", path).ok()
    result = json.loads((folder / "study" / "study.json").read_text())
    assert not [s for s in result["subsets"] if s.get("error")]
    assert {s["name"] for s in result["subsets"]} == {NAME, "bm25", "random", "long-words", "strides"}
    assert {a["name"]: a["settings"] for a in result["analyses"]["ablations"]} == {
        "long-words": {"min_letters": 6}, "strides": {"stride": 5}}
    assert NAME in (folder / "study" / "study.html").read_text()


def test_without_the_package_its_name_is_unknown(files, tmp_path: Path) -> None:
    _, values = files
    siftune("select", *flags(values, tmp_path / "run", "--method", NAME)).refused("unknown method")


def test_broken_packages_are_named_and_end_nothing(files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site" / "odd_things-1.0.dist-info"
    site.mkdir(parents=True)
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-things\nVersion: 1.0\n")
    (site / "entry_points.txt").write_text(
        "[siftune.methods]\nabsent = no_such_module:Method\nnumber = math:pi\nless = math:tau\nlacking = odd:Lacking\n"
        "[siftune.selectors]\nround-robin = math:pi\nloads = json:loads\nrds = math:pi\n"
        "[siftune.representations]\nolder = odd:Older\n")
    (site.parent / "odd.py").write_text(
        "class Lacking:\n    name = 'lacking'\n\n\n"
        "class Older:\n    name, summary, paper, cost = 'older', 'Fine.', '', ''\n"
        "    needs_target = needs_model = False\n\n    def compute(self, context):\n        pass\n")
    monkeypatch.syspath_prepend(site.parent)
    forget()
    try:
        listed = siftune("methods").ok()
        assert "older" in listed.out, "the group's former name is still read"
        for name, why in (("absent", "No module named"), ("number", "a class was expected"), ("lacking", "summary"),
                          ("loads", "a siftune.selectors.Selector was expected")):
            line = next(line for line in listed.err.splitlines() if repr(name) in line)
            assert line.startswith("warning: ")
            assert why in line
            assert "odd-things" in line
        for name in ("less", "round-robin", "rds"):
            assert f"{name!r} of the package odd-things is left out" in listed.err
        _, values = files
        siftune("select", *flags(values, tmp_path / "run", "--method", "bm25")).ok()
        siftune("select", *flags(values, tmp_path / "no", "--method", "absent")).refused(
            "'absent' of the package odd-things cannot be used", "No module named")
        siftune("select", *flags(values, tmp_path / "no", "--method", "bm25", "--selector", "loads")).refused(
            "'loads' of the package odd-things cannot be used")
    finally:
        monkeypatch.undo()
        forget()
