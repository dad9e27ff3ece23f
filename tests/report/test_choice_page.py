"""The page of a choice opens with what was taken, by how much, whether to claim it and whether to train at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from siftune.experiments.results.choice import Choice
from siftune.report import build
from siftune.report.choice import arms_table, sentences
from tests.report import runs
from tests.report.pages import Page
from tests.report.test_hostile import INVISIBLE, PAYLOADS, SHOWN


def gain(arm: str, expected: float, low: float, high: float, **more: Any) -> dict[str, Any]:
    return {"arm": arm, "trainings": 2, "measured": expected, "expected": expected, "low": low, "high": high,
            "worse": 0.1, "worse_by_a_point": 0.05, "utility": expected, **more}


def choice(take: str = "bm25", **changes: Any) -> dict[str, Any]:
    """Three rounds of two arms, one of them stopped after the first, on eight rows."""
    rows = [f"row{i}" for i in range(8)]
    scored = {"scores": [1.0, 0.0] * 4, "losses": [1.5] * 8, "score": 0.5, "loss": 1.5}
    trainings = [{"arm": arm, "budget": budget, "number": k, "cells": ["a"], "rows": budget, "tokens": 900.0,
                  "seconds": 3.0, **scored}
                 for budget in (25, 50, 100) for arm, count in (("random", 2), ("bm25", 1)) for k in range(count)]
    gains = [gain("bm25", 4.2, 0.5, 8.0), gain("embed", -1.0, -4.0, 2.0), gain("untuned", -9.0, -14.0, -4.0)]
    rounds = [{"budget": b, "trained": ["bm25", "embed"][: 2 - k], "random": 2, "trainings": 4, "front": "bm25",
               "gains": gains, "seen": {"bm25": 3.0 + k, "embed": -2.0, "untuned": -8.0},
               "stopped": {"embed": "less than 5% chance to be better than bm25"} if k == 0 else {}}
              for k, b in enumerate((25, 50, 100))]
    told = {
        "schema": 1, "kind": "choice", "siftune": "0", "settings": {"within": "2h"},
        "rows": {"pool": 400, "targets": 8, "scored_by": "folds", "folds": 4, "scored_ids": rows, "applicable": 8},
        "metric": "exact_match", "metric_why": "8 of 8 answers are short", "point": 0.01, "take": take,
        "expected": 4.2, "worth_training": take != "untuned", "selected": None if take == "untuned" else take,
        "budget": "100", "unit": "rows", "at": 100, "compared_at": 100, "row_error": 9.5, "rows_to_settle": 120,
        "gains": gains, "rounds": rounds,
        "claim": {"winners": [], "tests": [{"arm": "bm25", "gain": 5.0, "p_trainings": 0.1, "p_value": 0.3},
                                           {"arm": "untuned", "gain": -8.0, "p_trainings": 1.0, "p_value": 1.0}],
                  "level": 0.05, "at": 100, "random_trainings": 4},
        "trainings": [{"arm": "untuned", **scored}, *trainings], "methods": {"bm25": "bm25", "embed": "embed"},
        "left_out": {"less-round-robin": "its features alone take about 3 h"}, "cuts": ["2 folds instead of 4"],
        "costs": {"expected_seconds": 600.0, "wall_seconds": 500.0, "feature_seconds": 20.0, "train_seconds": 400.0,
                  "trainings": 9, "tokens": 8000},
    }
    return {**told, **changes}


def words(told: dict[str, Any]) -> str:
    return "\n".join(sentences(Choice.model_validate(told)))


def test_the_answer_comes_first_with_its_interval_its_claim_and_what_it_stands_on():
    told = words(choice())
    assert told.startswith("Take bm25: it is expected to gain +4.2 points over random rows (90% interval +0.5 to "
                           "+8.0).")
    assert "may not be claimed (p 0.300, all arms allowed for)" in told
    assert "Training is worth it: the untuned model is expected to be −9.0 points from random rows" in told
    assert "Tried: random rows, the untuned model, bm25, embed, on 25, 50 and 100 rows; stopped early: embed after 25" \
        in told
    assert "left out: less-round-robin (its features alone take about 3 h)" in told
    assert "Only 8 rows score, which tells little" in told
    assert "About 120 rows would tell the two in front apart" in told
    assert "Cut to fit 2h: 2 folds instead of 4." in told
    assert "9 trainings on 8,000 tokens took 6 min 40 s, features 20 s; 10 min at most were expected" in told


def test_a_claim_is_made_only_of_a_winner():
    won = choice()
    won["claim"] |= {"winners": ["bm25"]}
    won["claim"]["tests"][0]["p_value"] = 0.01
    assert "That bm25 beats random rows may be claimed (p 0.010, all arms allowed for, 4 trainings" in words(won)
    none = choice()
    none["claim"] |= {"tests": [], "why_not": "There is 1 training."}
    assert "cannot be claimed: There is 1 training." in words(none)


def test_random_rows_and_the_untuned_model_are_answers_too():
    kept = words(choice("random", expected=None))
    assert kept.startswith("Keep random rows: no arm is worth the risk. The next best bet is bm25, +4.2 points")
    better = gain("untuned", 6.0, 2.0, 9.0)
    untuned = words(choice("untuned", gains=[better, gain("bm25", 0.0, -3.0, 3.0)]))
    assert untuned.startswith("Do not train: the untuned model is expected to be +6.0 points above")
    assert "Nothing was selected" in untuned
    unsure = choice(gains=[gain("bm25", 4.2, 0.5, 8.0), gain("untuned", -1.0, -4.0, 2.0)])
    assert "Whether to train at all is not settled" in words(unsure)


def test_every_arm_is_drawn_and_listed(tmp_path: Path):
    run = runs.write_run(tmp_path / "run", n=40, selected=4)
    (run / "choice.json").write_text(json.dumps(choice()))
    page = Page(build(run)[0].read_text(encoding="utf-8"))
    assert page.text.index("Take bm25") < page.text.index("What was measured to choose") < page.text.index(
        "Comparison with random")
    assert "A bet, not proven" in page.text
    numbers = json.loads((run / "report.json").read_text())["choice"]
    assert [one["arm"] for one in numbers["arms"]] == ["bm25", "embed", "untuned"]
    assert [len(one["seen"]) for one in numbers["rounds"]] == [3, 3, 3]
    circles = [attributes.get("class") for tag, attributes in page.elements if tag == "circle"]
    assert sum((name or "").startswith("dot ") for name in circles) == 9, "three arms in three rounds"
    assert "Measured difference from random rows by round" in page.text


def test_a_choice_that_selects_nothing_has_a_page_without_a_selection(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "choice.json").write_text(json.dumps(choice("untuned")))
    page = Page(build(tmp_path / "run")[0].read_text(encoding="utf-8"))
    assert "Training is not worth it" in page.text
    assert "Not shown" not in page.text
    assert "Comparison with random" not in page.text
    links = {attributes["href"] for tag, attributes in page.elements if tag == "a"}
    ids = {f"#{attributes['id']}" for _, attributes in page.elements if attributes.get("id")}
    assert links <= ids


def hostile(evil: str) -> dict[str, Any]:
    told = json.dumps(choice("bm25"))
    for name in ('"bm25"', '"embed"', '"2h"', '"less-round-robin"', '"its features alone take about 3 h"',
                 '"8 of 8 answers are short"', '"2 folds instead of 4"', '"row0"'):
        assert name in told
        told = told.replace(name, json.dumps(evil + name.strip('"')))
    return {**json.loads(told), "failed": {evil: evil}, "notes": [evil], "siftune": evil}


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(tmp_path_factory.mktemp("harmless") / "run", "word")


def page_of(folder: Path, evil: str) -> Page:
    folder.mkdir()
    (folder / "choice.json").write_text(json.dumps(hostile(evil)), encoding="utf-8")
    return Page(build(folder)[0].read_text(encoding="utf-8"))


@pytest.mark.parametrize("evil", PAYLOADS)
def test_names_and_reasons_show_as_plain_text(tmp_path: Path, harmless: Page, evil: str):
    shown = page_of(tmp_path / "run", evil)
    assert [tag for tag, _ in shown.elements] == [tag for tag, _ in harmless.elements]
    assert {name for _, attributes in shown.elements for name in attributes} == \
        {name for _, attributes in harmless.elements for name in attributes}
    assert "script" not in shown.tags
    assert shown.text.count(evil) > 10


def test_invisible_characters_are_spelled_out_on_the_page_and_in_the_terminal(tmp_path: Path,
                                                                               capsys: pytest.CaptureFixture[str]):
    from siftune.cli.printing import print_choice
    from siftune.experiments.choosing.finished import Chosen

    assert SHOWN in page_of(tmp_path / "run", INVISIBLE).text
    results = Choice.model_validate(hostile(INVISIBLE))
    print_choice(Chosen(tmp_path / "choice.json", results, None, tmp_path / "report.html",
                        "\n".join(sentences(results))))
    printed = capsys.readouterr().out
    assert SHOWN in printed
    assert not set("\u202e\u2066\x00\x1b\x7f\ufeff") & set(printed)
    assert "\x1b" not in arms_table(results)
