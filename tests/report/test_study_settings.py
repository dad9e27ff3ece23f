"""The page shows what settings change, how subtasks fare, and what transfer and correlations rest on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from siftune.report import formats
from siftune.report.study import build
from tests.report import studies
from tests.report.pages import Page
from tests.report.test_hostile import PAYLOADS


def small(**more: Any) -> dict[str, Any]:
    return studies.study(targets=("math", "code"), budgets=("1%", "20%"), test_rows=12,
                         methods=("less-round-robin", "rds+", "embed"), **more)


def page(folder: Path, result: dict[str, Any]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps(result), encoding="utf-8")
    return build(folder).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    made = studies.with_ablations(small(), ({"adam": "none"}, {"options": ["on_taken=forfeit"], "projection_dim": 512}))
    for told in made["analyses"]["distance_predicts_loss"]:
        told["exact_match"] = {"rho": -0.25, "low": -0.75, "high": 0.125, "n": 7}
    return made


@pytest.fixture(scope="module")
def html(result: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    return page(tmp_path_factory.mktemp("settings") / "run", result)


def section(html: str, start: str, end: str) -> Page:
    return Page(html[html.index(start):].partition(end)[0] + end)


def test_every_ablation_is_beside_its_method(result: dict[str, Any], html: str) -> None:
    shown = section(html, '<section id="settings"', "</section>")
    told = result["analyses"]["ablations"]
    rows = [a for tag, a in shown.elements if tag == "tr"][1:]
    assert [(r["data-method"], r["data-target"], r["data-budget"]) for r in rows] == [
        (a["name"], a["target"], a["budget"]) for a in told]
    assert "adam: none" in shown.texts
    assert "options: on_taken=forfeit, projection_dim: 512" in shown.texts
    for one in told:
        for value in (f"{one['jaccard']:.2f}", formats.loss(one["loss"]), formats.loss(one["method_loss"])):
            assert value in shown.cells
    assert f"{formats.signed(0.02)} [{formats.signed(-0.01)}, {formats.signed(0.07)}]" in shown.cells


def test_an_ablation_is_no_baseline(html: str) -> None:
    arms = section(html, '<section id="arms"', "</section>")
    rows = [a.get("data-method") for tag, a in arms.elements if tag == "tr"]
    assert rows.count("ABLATION-0") == 4
    assert " (ablation)" in "".join(arms.texts)
    assert '<option value="ABLATION-0">' in html


def test_subtasks_are_folded_below_their_target(result: dict[str, Any], html: str) -> None:
    for target in ("math", "code"):
        start = html.index(f"By subtask (exploratory), {target}")
        fold = html.rindex("<details>", 0, start)
        assert fold > html.rindex("<h3>", 0, start), "closed until it is asked for"
        shown = section(html[fold:], "<details>", "</details>")
        told = [t for t in result["analyses"]["subtasks"] if t["target"] == target]
        assert len([tag for tag, _ in shown.elements if tag == "tr"]) == 1 + len(told)
        for one in told:
            assert formats.loss(one["loss"]) in shown.cells
            if one["difference"] is not None:
                ends = f"[{formats.signed(one['low'])}, {formats.signed(one['high'])}]"
                assert f"{formats.signed(one['difference'])} {ends}" in shown.cells
        assert "a family of their own of 40" in " ".join(shown.texts)


def test_gains_of_transfer_have_their_adjusted_p(result: dict[str, Any], html: str) -> None:
    shown = section(html, '<section id="transfer"', "</section>")
    gains = [g for t in result["analyses"]["transfer"] for g in t["gains"]]
    assert any(g["p_value_holm"] > g["p_value"] for g in gains)
    for gain in gains:
        assert formats.p_value(gain["p_value_holm"]) in shown.cells
    assert "a family of their own" in shown.text


def test_the_correlation_with_exact_match_is_beside_that_with_loss(html: str) -> None:
    shown = section(html, '<section id="distance"', "</section>")
    wanted = f"{formats.signed(-0.25)} [{formats.signed(-0.75)}, {formats.signed(0.125)}]"
    assert shown.cells.count(wanted) == 8


def test_the_dots_are_the_pairs_of_the_file(result: dict[str, Any], tmp_path: Path) -> None:
    changed = json.loads(json.dumps(result))
    for told in changed["analyses"]["distance_predicts_loss"]:
        told["pairs"] = told["pairs"][:3]
    shown = Page(page(tmp_path / "run", changed))
    dots = [text for text in shown.texts if ": distance " in text]
    assert len(dots) == 8 * 3
    pair = changed["analyses"]["distance_predicts_loss"][0]["pairs"][0]
    assert any(text.endswith(f"distance {formats.score(pair['distance'])}, loss {formats.loss(pair['loss'])}")
               for text in dots)


def test_without_ablations_and_subtasks_there_is_nothing_of_them(tmp_path: Path) -> None:
    html = page(tmp_path / "run", small(other=None))
    assert "What a setting changes" not in html
    assert "By subtask" not in html
    assert "rho with exact match" not in html


@pytest.fixture(scope="module")
def named() -> str:
    """A study in which EVIL stands for what an ablation, its setting and a subtask are called."""
    made = studies.study(targets=("math",), methods=("rds+", "embed"), budgets=("1%",), test_rows=4, other=None)
    return json.dumps(studies.with_ablations(made, ({"embedding_model": "EVIL"},), ("EVIL", "other"))).replace(
        "ABLATION-0", "EVIL")


@pytest.mark.parametrize("evil", PAYLOADS)
def test_names_and_settings_are_shown_as_text(named: str, evil: str, tmp_path: Path) -> None:
    shown, harmless = (Page(page(tmp_path / str(i), json.loads(named.replace("EVIL", json.dumps(word)[1:-1]))))
                       for i, word in enumerate((evil, "word")))
    assert [tag for tag, _ in shown.elements] == [tag for tag, _ in harmless.elements]
    assert sum(evil in text for text in shown.texts) > 10
