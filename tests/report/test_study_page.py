"""The page of a study says what its numbers say, shows them, and can be made of a study that has only begun."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from siftune import report
from siftune._common.errors import DataError
from siftune.experiments.analysis.overall import overall
from siftune.experiments.results import Results
from siftune.report import formats
from siftune.report.study import build
from siftune.report.study.analyses import break_even
from siftune.report.study.model import build_view
from siftune.report.study.verdict import verdict
from tests.cli.command import siftune
from tests.report import studies
from tests.report.pages import Page

SECTIONS = ["What can be told", "Methods against random", "Budget curves", "Data efficiency",
            "Does nearness to the target tell the loss?", "Overlap of the subsets", "Transfer to other models",
            "Cost and gain", "All arms", "Failures", "Configuration"]


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return studies.study(targets=("math", "code"), budgets=("1%", "20%"), test_rows=12,
                         methods=("less-round-robin", "rds+", "embed", "bm25", "ifd"))


def write(folder: Path, result: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps(result), encoding="utf-8")
    return folder


def page(folder: Path, result: dict[str, Any]) -> Page:
    return Page(build(write(folder, result)).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def shown(result: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page(tmp_path_factory.mktemp("study") / "run", studies.with_failures(json.loads(json.dumps(result))))


def leaves(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def mean_loss(result: dict[str, Any], target: str, budget: str | None, name: str) -> float:
    return next(a["loss"]["mean"] for a in result["arms"]
                if (a["model"], a["target"], a["budget"], a["name"]) == (studies.MODEL, target, budget, name))


def test_the_page_keeps_its_order(shown: Page) -> None:
    place = 0
    for words in SECTIONS:
        place = shown.text.find(words, place + 1)
        assert place > 0, words
    assert [tag for tag, _ in shown.elements].count("h1") == 1


def test_every_comparison_with_random_stands_in_the_verdicts(result: dict[str, Any], shown: Page) -> None:
    tests = [t for t in result["tests"] if t["against"] == "random"]
    assert {t["verdict"] for t in tests} == {"better", "worse", "no different", "single training"}
    for t in tests:
        base = mean_loss(result, t["target"], t["budget"], "random")
        by, ends = abs(t["difference"]) / base, sorted((abs(t["low"]) / base, abs(t["high"]) / base))
        told = " to ".join(formats.rough_percent(min(1.0, end)) for end in ends)
        verb = {"better": "lowered", "worse": "raised"}.get(t["verdict"])
        words = f"{t['method']} {verb} the held-out loss by {formats.rough_percent(by)} against random (95% interval " \
                f"{told}, p after Holm {formats.p_value(t['p_value_holm'])}, {t['n_seeds']} trainings)." if verb else \
                f"{t['method']} ({formats.signed_percent(t['difference'] / base)})"
        assert words in shown.text, words
    better = [t for t in tests if t["verdict"] == "better"]
    assert f"{len(better)} better than random" in shown.text


def test_every_number_in_a_table_stands_in_the_json_or_follows_from_it(result: dict[str, Any], shown: Page) -> None:
    known = {formats.MISSING}
    numbers = list(leaves({**result, "cells": []}))
    for t in result["tests"]:
        numbers.append(t["difference"] / mean_loss(result, t["target"], t["budget"], t["against"]))
    for a in result["arms"]:
        if a["model"] == studies.MODEL and a["budget"]:
            random = mean_loss(result, a["target"], a["budget"], "random")
            numbers.append((random - a["loss"]["mean"]) / random)
    for effect in overall(Results.model_validate(result)):  # tests/experiments/test_overall.py
        numbers += [-end for end in (effect.low, effect.high) if end is not None]
        numbers += [effect.p_value_holm] if effect.p_value_holm is not None else []
    numbers += [*range(1, 11), 12]  # the tenths, the rows of a test file
    for leaf in numbers:
        known |= {show(leaf) for show in (formats.number, formats.loss, formats.p_value, formats.percent,
                                          formats.signed, formats.signed_percent, formats.duration)}
        known.add(formats.number(round(leaf)))
    assert len(shown.cells) > 300
    for cell in shown.cells:
        for part in re.split(r", | × | \[|\]|more than |at most | of ", cell):
            assert part in known or not part, cell


def test_accuracy_by_likelihood_has_columns_where_there_is_some(result: dict[str, Any], tmp_path: Path) -> None:
    before = build(write(tmp_path / "before", result)).read_text(encoding="utf-8")
    assert "acc_norm" not in before
    changed = json.loads(json.dumps(result))
    for number, arm in enumerate(changed["arms"]):
        if arm["target"] == "math":
            arm["acc"] = {"mean": 0.25 + number / 1000, "low": 0.125, "high": 0.375, "per_seed": [0.25]}
            arm["acc_norm"] = {"mean": 0.5, "low": 0.375, "high": 0.625, "per_seed": [0.5]}
    html = build(write(tmp_path / "run", changed)).read_text(encoding="utf-8")
    for name in ("acc", "acc_norm"):
        assert html.count(f'<th scope="col" class="n">{name}</th>') == 1
    assert html.count('data-value="0.5"') >= sum(arm["target"] == "math" for arm in changed["arms"])


def titles(shown: Page, start: str) -> list[str]:
    return [text for text in shown.texts if text.startswith(start)]


def test_the_forest_plot_and_the_curves_are_of_the_json(result: dict[str, Any], shown: Page) -> None:
    for t in result["tests"]:
        if t["against"] == "random":
            interval = f"interval {formats.signed(t['low'])} to {formats.signed(t['high'])}"
            name = t["method"] + (" (one training, no verdict)" if t["verdict"] == "single training" else "")
            assert f"{name}: {formats.signed(t['difference'])}, {interval}" in shown.texts
    for curve in result["analyses"]["curves"]:
        for point in curve["points"]:
            if curve["name"] != "full":
                told = f"{curve['name']}, {point['budget']}: loss {formats.loss(point['loss'])}"
                assert f"{told}, {formats.number(point['rows'])} rows" in shown.texts
                assert f"{told}, {formats.number(point['tokens'])} tokens" in shown.texts
    for arm in result["arms"]:
        if arm["name"] in ("zero-shot", "full") and arm["model"] == studies.MODEL:
            level = f"{arm['name']} {formats.number(arm['loss']['mean'])}"
            assert any(text.rstrip(" ↑↓") == level for text in shown.texts)


def test_random_s_band_is_that_of_its_trainings(result: dict[str, Any]) -> None:
    view = build_view(Results.model_validate(result), "x")
    for target in view["curves"]:
        for band in target["band"]:
            arm = next(a for a in result["arms"] if (a["model"], a["target"], a["budget"], a["name"])
                       == (studies.MODEL, target["target"], band["budget"], "random"))
            assert (band["low"], band["high"]) == (min(arm["loss"]["per_seed"]), max(arm["loss"]["per_seed"]))


def test_the_dots_of_a_correlation_have_the_rho_that_is_told(result: dict[str, Any]) -> None:
    view = build_view(Results.model_validate(result), "x")
    rhos = [rho for target in view["correlations"] for rho in target["rhos"]]
    assert len(rhos) == 8
    for rho in rhos:
        assert len(rho["dots"]) == rho["n"]
        found = spearmanr([d["distance"] for d in rho["dots"]], [d["loss"] for d in rho["dots"]]).statistic
        assert found == pytest.approx(rho["rho"], abs=1e-9)


def test_the_heat_map_has_every_pair(result: dict[str, Any]) -> None:
    view = build_view(Results.model_validate(result), "x")
    assert len(view["overlaps"]) == 4
    for given, told in zip(result["analyses"]["overlap"], view["overlaps"], strict=True):
        assert [[c["value"] for c in line["cells"]] for line in told["lines"]] == given["jaccard"]
        assert [[c["step"] for c in line["cells"]] for line in told["lines"]] == \
            np.round(10 * np.array(given["jaccard"])).tolist()


@pytest.mark.parametrize(("saved", "bound", "words"), [
    ({"saved": 4.0, "at_least": False, "trainings": 3}, "", "3"),
    ({"saved": 4.0, "at_least": True, "trainings": 3}, "above", "at most 3"),
    ({"saved": -4.0, "at_least": False, "trainings": None}, "", "never"),
    ({"saved": -4.0, "at_least": True, "trainings": None}, "above", "not known"),
    ({"saved": None, "at_least": False, "trainings": None}, "below", "never"),
    ({"saved": None, "at_least": False, "trainings": None}, "", "not known"),
    ({"saved": 4.0, "at_least": False, "trainings": None}, "", "not known"),  # nobody knows what selecting took
    (None, "", "–"),
])
def test_break_even_in_words(saved: dict[str, Any] | None, bound: str, words: str) -> None:
    told = Results.model_validate({"targets": [], "analyses": {
        "curves": [{"target": "t", "name": "m", "efficiency": [{"budget": "5%", "bound": bound}]}],
        "break_even": [{"target": "t", "budget": "5%", "name": "m", "against_random": saved}]}})
    assert break_even(told)[0]["random_words"] == words


def judged(result: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The verdict of a study whose only test is the first against random, changed."""
    test = next(t for t in result["tests"] if t["against"] == "random" and t["verdict"] == "better")
    return verdict(Results.model_validate({**result, "tests": [{**test, **changes}], "cells": [], "failures": []}))


def test_the_headline_claims_no_more_than_the_tests(result: dict[str, Any]) -> None:
    assert judged(result)["headline"].endswith("beat random.")
    assert judged(result)["status"] == "better"
    for outcome, words, status in (("no different", "No method beat random beyond chance", "no different"),
                                   ("worse", "No method beat random beyond chance", "worse"),
                                   ("single training", "Nothing can be told yet", "single training")):
        told = judged(result, verdict=outcome)
        assert told["headline"].startswith(words)
        assert told["status"] == status
    for change in ({"against": "length-matched-random"}, {"metric": "exact_match"}):
        assert judged(result, **change)["status"] == "not compared"


def test_a_gain_that_length_or_no_training_explains_is_cautioned(result: dict[str, Any]) -> None:
    first = next(t for t in result["tests"] if t["against"] == "random" and t["verdict"] == "better")
    changed = json.loads(json.dumps(result))
    changed["tests"] = [first, {**first, "against": "length-matched-random", "verdict": "no different"}]
    for arm in changed["arms"]:
        if arm["name"] == "zero-shot":
            arm["loss"]["mean"] = 0.01
        if arm["name"] == first["method"]:
            arm["tokens"] *= 2
    told = verdict(Results.model_validate(changed))
    place = next(p for t in told["targets"] if t["name"] == first["target"] for p in t["budgets"]
                 if p["budget"] == first["budget"])
    assert [any(word in text for text in place["cautions"]) for word in (
        "the same response lengths", "without training", "100.0% more tokens")] == [True] * 3


def test_missing_trainings_failures_and_few_seeds_are_cautioned(shown: Page, tmp_path: Path) -> None:
    assert "2 selections or trainings failed" in shown.text
    assert "on fewer than 3 trainings" in shown.text
    assert "out of memory" in shown.text
    assert "no row fits the budget\nhint: raise it" in shown.text
    begun = page(tmp_path / "begun", studies.begun())
    assert re.search(r"[\d,]+ trainings of [\d,]+ are still missing", begun.text)


def nothing_finished() -> dict[str, Any]:
    result = studies.begun()
    result["arms"] = []
    result["subsets"] = []
    for cell in result["cells"]:
        cell |= {"status": "missing", "results": {}}
    return result


def without_numbers() -> dict[str, Any]:
    """Numbers that are none, as a training that went astray leaves them."""
    result = studies.study(targets=("math",), methods=("rds+",), budgets=("5%",), test_rows=6, other=None, full=False)
    for arm in result["arms"]:
        arm["loss"] |= {"mean": float("nan"), "low": float("-inf")}
    for test in result["tests"]:
        test |= {"difference": float("nan"), "p_value": float("nan")}
    return result


@pytest.mark.parametrize("made", [
    studies.begun, nothing_finished, without_numbers,
    lambda: {"targets": []},
    lambda: {"targets": [{"name": "alone"}], "settings": {"budgets": ["5%"]}},
    lambda: studies.study(targets=("math",), methods=("bm25",), budgets=("5%",), test_rows=6, other=None, full=False,
                          deciles=()),
], ids=["zero-shot", "nothing", "no-numbers", "no-targets", "bare", "one-training"])
def test_a_study_of_any_state_has_a_whole_page(tmp_path: Path, made: Any) -> None:
    told = page(tmp_path / "study", made())
    assert not told.open
    for words in SECTIONS:
        assert words in told.text
    assert "nan" not in re.findall(r"[a-z]+", told.text)
    assert "inf" not in re.findall(r"[a-z]+", told.text)


def test_the_same_numbers_give_the_same_bytes(result: dict[str, Any], tmp_path: Path) -> None:
    pages = [build(write(tmp_path / folder / "study", result)) for folder in "ab"]
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_a_large_study_stays_below_five_megabytes(tmp_path: Path) -> None:
    names = [f"representation-{i}-selector" for i in range(20)]
    one = json.dumps(studies.study(targets=("target-0",), methods=names, budgets=("1%", "5%", "20%"), test_rows=4,
                                   other=None))
    large = json.loads(one)
    for k in range(1, 5):
        more = json.loads(one.replace("target-0", f"target-{k}"))
        for key in ("targets", "arms", "tests", "subsets", "cells"):
            large[key] += more[key]
        for key in large["analyses"]:
            large["analyses"][key] += more["analyses"][key]
    assert len(large["arms"]) == 5 * (3 * 22 + 2)
    assert build(write(tmp_path, large)).stat().st_size < 5_000_000


def test_report_makes_the_page_of_a_study(result: dict[str, Any], tmp_path: Path) -> None:
    folder = write(tmp_path / "study", result)
    assert report.build(folder) == (folder / "study.html", folder / "study.json")
    (folder / "study.html").unlink()
    done = siftune("report", str(folder))
    assert done.code == 0
    assert str(folder / "study.html") in done.out
    assert "What can be told" in (folder / "study.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("content", "where", "why"), [
    ("{\n\n oops", "study.json:3", "Expecting property name"),
    ("[]", "study.json", "dictionary"),
    ('{"targets": [{"name": 3}]}', "study.json", "targets.0.name"),
    ('{"targets": [], "tests": [{"verdict": "great"}]}', "study.json", "tests.0"),
])
def test_a_broken_file_is_named_with_its_place(tmp_path: Path, content: str, where: str, why: str) -> None:
    (tmp_path / "study.json").write_text(content)
    with pytest.raises(DataError) as refused:
        build(tmp_path)
    assert (refused.value.where or "").endswith(where)
    assert why in (refused.value.why or "")
    assert "siftune study" in (refused.value.hint or "")
    assert not (tmp_path / "study.html").exists()


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not the folder of a study"):
        build(tmp_path)
