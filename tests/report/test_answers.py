"""The three questions of a run's page and the one of a study's have an answer whatever the folder lacks, and each says
no more than the numbers do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from siftune._common.files import read_json
from siftune.config.settings import load, to_yaml
from siftune.config.shared import CompareConfig, SelectConfig
from siftune.experiments.results import Results
from siftune.experiments.results.choice import Choice
from siftune.report import build
from siftune.report.answers import answers, first_clause
from siftune.report.choice import arms_table
from siftune.report.model import build_report
from siftune.report.study.model import build_view
from tests.report import runs, studies
from tests.report.pages import Page
from tests.report.test_choice_page import choice


def texts(picture: Any) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", str(picture))


def titles(picture: Any) -> list[str]:
    return re.findall(r"<g[^>]*><title>([^<]*)</title>", str(picture))


def classes(picture: Any, name: str) -> list[str]:
    return re.findall(rf'class="({name}[^"]*)"', str(picture))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return runs.write_run(tmp_path / "run")


def compared(run: Path, told: dict[str, Any]) -> dict[str, Any]:
    runs.write_json(run / "comparison.json", told)
    return answers(build_report(run))


def test_the_effect_is_drawn_against_random_with_zero_shot_beside_it(run: Path) -> None:
    found = compared(run, runs.comparison())["help"]
    assert found["sentence"] == ("less-round-robin lowered the held-out target loss by 12% against random (95% "
                                 "interval 5% to 19%, 3 seeds).")
    assert titles(found["picture"]) == ["less-round-robin: −12.0%, interval −19.0% to −5.0%", "zero-shot: +60.0%"]
    assert classes(found["picture"], "mean ") == ["mean method"]
    assert classes(found["picture"], "beyond") == ["beyond baseline"], "far from everything else"
    assert found["command"] is None


@pytest.mark.parametrize(("verdict", "drawn", "badge"), [
    ("better", "mean method", "✓ Better than random"), ("worse", "mean method", "✗ Worse than random"),
    ("no different", "mean even", "= Not told from random"),
    ("single training", "mean single", "? One training, no verdict")])
def test_each_verdict_is_drawn_as_what_it_is(run: Path, verdict: str, drawn: str, badge: str) -> None:
    told = runs.comparison()
    told["tests"][0]["verdict"] = told["analyses"]["subtasks"][0]["verdict"] = verdict
    told["analyses"]["subtasks"][1]["verdict"] = "no different"
    found = compared(run, told)["help"]
    assert classes(found["picture"], "mean ") == [drawn]
    assert found["badge"] == badge
    page = build(run)[0].read_text(encoding="utf-8")
    assert ("One training, no verdict" in Page(page).text) == (verdict == "single training")
    differences = page[page.index("Difference in loss, method minus random"):].partition("</svg>")[0]
    assert classes(differences, "mean ") == [drawn, drawn, "mean even"]


def test_where_nothing_was_trained_it_is_said_with_the_command_that_would_tell(run: Path) -> None:
    found = answers(build_report(run))
    assert found["help"]["sentence"] == "Not known: nothing was trained on this subset."
    assert found["help"]["command"] == "siftune compare run/config.yaml --test HELD_OUT.jsonl"
    (run / "config.yaml").write_text("output_dir: runs/my run\nbudget: 5%\n")
    assert answers(build_report(run))["help"]["command"] == (
        "siftune compare 'runs/my run/config.yaml' --test HELD_OUT.jsonl")
    assert classes(found["help"]["picture"], "empty")
    assert titles(found["watch"]["picture"])[0] == "Measured: not yet (watch this)"
    (run / "config.yaml").write_text("{broken: [")
    assert answers(build_report(run))["help"]["command"].startswith("siftune compare run/config.yaml")


def test_the_configuration_that_select_writes_is_one_that_compare_takes(tmp_path: Path) -> None:
    wanted = SelectConfig(pool=("a.jsonl",), target=("t.jsonl",), output_dir="runs/x", method="rds+", budget="7%")
    (tmp_path / "config.yaml").write_text(to_yaml(wanted), encoding="utf-8")
    taken = load(CompareConfig, tmp_path / "config.yaml", {"test": ("held_out.jsonl",)})
    assert (taken.pool, taken.method, taken.budget, taken.test) == (("a.jsonl",), "rds+", "7%", ("held_out.jsonl",))


def test_a_choice_answers_with_its_bet_and_all_arms(run: Path) -> None:
    runs.write_json(run / "choice.json", choice())
    found = answers(build_report(run))
    assert found["help"]["sentence"].startswith("Take bm25: it is expected to gain +4.2 points")
    assert titles(found["help"]["picture"]) == [
        "bm25: +4.2, interval +0.5 to +8.0", "embed: −1.0, interval −4.0 to +2.0",
        "zero-shot: −9.0, interval −14.0 to −4.0"]
    assert classes(found["help"]["picture"], "mean ") == ["mean method", "mean even", "mean baseline"]
    assert titles(found["watch"]["picture"])[0] == "Rows that score: 8 (watch this)"
    assert found["watch"]["sentence"] == "3 things, the first: Only 8 rows score, which tells little."
    runs.write_json(run / "choice.json", choice("random", expected=None))
    kept = answers(build_report(run))["help"]
    assert kept["sentence"] == "Keep random rows: no arm is worth the risk."
    assert classes(kept["picture"], "mean ") == ["mean even", "mean even", "mean baseline"]


def test_the_untuned_model_is_no_training(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    runs.write_json(tmp_path / "run" / "choice.json", choice("untuned"))
    html = build(tmp_path / "run")[0].read_text(encoding="utf-8")
    assert "Nothing was selected" in html
    in_arms, in_trainings = re.findall(r'<tr><th scope="row" class="name">untuned.*?</tr>', html)
    assert re.findall(r'<td class="n">(.*?)</td>', in_arms)[0] == "–", "no number of trainings"
    assert "(not trained)" in in_trainings
    [line] = [line for line in arms_table(Choice.model_validate(choice("untuned"))).splitlines() if "untuned" in line]
    assert line.split("|")[2].strip() == "-"


def test_the_subset_is_drawn_beside_its_pool(run: Path) -> None:
    found = answers(build_report(run))["chosen"]
    assert found["sentence"].startswith("20 of 400 usable rows (5.0%) by less: ")
    report = build_report(run)["composition"]["sources"]["listed"]
    for entry in report:
        told = f"{100 * entry['pool_share']:.0f}% of the pool, {100 * entry['selected_share']:.0f}% of the subset"
        assert f"{entry['name']}: {told}" in titles(found["picture"])


def test_many_sources_are_summed_up_and_without_any_lengths_stand_in(run: Path) -> None:
    n = 100
    table = {"id": [f"r{i}" for i in range(n)], "source": [f"s{i % 30}" for i in range(n)], "score": [0.1] * n,
             "tokens": [i + 1 for i in range(n)], "selected": [i < 10 for i in range(n)]}
    runs.write_scores(run, table)
    (run / "selection.parquet").unlink()
    found = titles(answers(build_report(run))["chosen"]["picture"])
    assert len(found) == 4
    assert found[-1].startswith("27 others: ")
    shares = [list(map(int, re.findall(r"(\d+)%", title))) for title in found]
    assert 96 <= sum(pool for pool, _ in shares) <= 104
    runs.write_scores(run, table | {"source": ["one"] * n})
    lengths = titles(answers(build_report(run))["chosen"]["picture"])
    assert lengths[0].startswith("under ")
    pool, subset = zip(*(map(int, re.findall(r"(\d+)%", title)) for title in lengths), strict=True)
    assert sum(pool) == pytest.approx(100, abs=2)
    assert subset[0] == 40 or sum(subset) == pytest.approx(100, abs=2)


def test_what_to_watch_is_counted_told_and_listed(run: Path) -> None:
    told = read_json(run / "manifest.json")
    told["warnings"] = ["the budget 5% is not met: 340 are near-duplicates of selected rows, and 20 rows are all that "
                        "may be selected of the rest", "59% of the selected rows are of the source flan"]
    told["diagnostics"] |= {"exhausted": True, "budget": {"kind": "rows", "limit": 80, "rows": 20, "tokens": 9}}
    runs.write_json(run / "manifest.json", told)
    found = compared(run, runs.comparison())["watch"]
    assert found["sentence"] == "2 things, the first: the budget 5% is not met."
    assert found["notes"] == told["warnings"]
    listed = titles(found["picture"])
    assert listed[:3] == ["Trainings: 3 seeds", "Budget used: 25% (watch this)", "Targets served: 3 of 4 (watch this)"]
    few = runs.comparison()
    few["tests"][0]["n_seeds"] = 2
    found = compared(run, few)["watch"]
    assert titles(found["picture"])[0] == "Trainings: 2 seeds (watch this)"
    assert found["sentence"].startswith("3 things, the first: Only 2 seeds")


def test_where_nothing_is_to_be_watched_it_is_said(run: Path) -> None:
    told = read_json(run / "manifest.json") | {"warnings": []}
    told["data"]["truncated"] = 0
    runs.write_json(run / "manifest.json", told)
    found = compared(run, runs.comparison())["watch"]
    assert found["sentence"] == "Only this stands out: targets served: 3 of 4."
    rows = [json.loads(line) | {"selected": 1} for line in (run / "targets.jsonl").read_text().splitlines()]
    runs.write_jsonl(run / "targets.jsonl", rows)
    found = compared(run, runs.comparison())["watch"]
    assert found["sentence"] == "Nothing stands out."
    assert found["notes"] == []


@pytest.mark.parametrize(("text", "shown"), [
    ("short", "short"), ("a\nb", "a b"), ("x" * 300, "x" * 110 + " …"),
    ("Only 8 rows score, which tells little: " + "and more " * 20, "Only 8 rows score, which tells little"),
    ("word " * 40, ("word " * 22).strip() + " …"),
])
def test_of_a_long_note_its_first_clause_is_told(text: str, shown: str) -> None:
    assert first_clause(text) == shown


def test_a_selection_for_no_target_in_particular_leaves_none_behind(run: Path) -> None:
    n = 30
    runs.write_selection(run, {"id": ["r0", "r1"], "rank": [1, 2], "score": [None] * 2, "nearest_target": [None] * 2,
                               "tokens": [10] * 2, "source": ["a"] * 2})
    runs.write_scores(run, {"id": [f"r{i}" for i in range(n)], "source": ["a"] * n, "score": [None] * n,
                            "nearest_target": [None] * n, "tokens": [10] * n, "selected": [i < 2 for i in range(n)]})
    rows = [json.loads(line) | {"selected": 0} for line in (run / "targets.jsonl").read_text().splitlines()]
    runs.write_jsonl(run / "targets.jsonl", rows)
    report = build_report(run)
    assert report["targets"]["without_rows"] is None
    assert not any("Targets" in title for title in titles(answers(report)["watch"]["picture"]))
    page = Page(build(run)[0].read_text(encoding="utf-8")).text
    assert "matched by no selected row" not in page
    assert "No row was chosen for one target in particular" in page


def test_time_of_an_earlier_run_is_not_counted_as_this_one_s(run: Path) -> None:
    report = build_report(run)
    assert report["cost"]["seconds"] == pytest.approx(140.4)
    text = Page(build(run)[0].read_text(encoding="utf-8")).text
    assert "2 min 20 s spent in this run; 1 step was taken from an earlier run" in text
    assert "1 min 11 s" not in text, "what the reused warmup says is no cost of this run"


@pytest.mark.parametrize("of", ["score", "similarity", "method_score"])
def test_the_chart_of_scores_and_the_sentence_below_it_say_the_same(run: Path, of: str) -> None:
    told = read_json(run / "manifest.json")
    told["diagnostics"]["ranked"] = "score" if of == "score" else "when taken"
    runs.write_json(run / "manifest.json", told)
    n = 40
    values = [i / n for i in range(n)]
    columns = {"score": [None if of != "score" else v for v in values], "method_score": values,
               **({"similarity": values} if of == "similarity" else {})}
    runs.write_scores(run, {"id": [f"r{i}" for i in range(n)], "source": ["a"] * n, "tokens": [9] * n,
                            "selected": [i >= 30 for i in range(n)], **columns})
    (run / "selection.parquet").unlink()
    html = build(run)[0].read_text(encoding="utf-8")
    section = html[html.index('<section id="scores"'):].partition("</section>")[0]
    words = Page(section).text
    name = {"score": "scores", "similarity": "similarities to the nearest target", "method_score": "method's scores"}
    assert f"Distribution of the {name[of]}" in words
    assert ("dashed line" in words) == ("lowest selected" in words) == ("The lowest selected score is" in words) == (
        of == "score")
    if of == "score":
        assert "lowest selected 0.7500" in words
        assert "The lowest selected score is 0.7500. No row with a higher score was left out." in words


def test_the_page_calls_a_model_by_its_name(run: Path) -> None:
    told = read_json(run / "manifest.json")
    for name, shown in (("embedded", "SmolLM2-135M-Instruct"), ("/srv/some/where/llama", "llama"),
                        ("/cache/hub/models--Qwen--Qwen2.5-0.5B/snapshots/0a1b", "Qwen/Qwen2.5-0.5B")):
        runs.write_json(run / "manifest.json", told | {"model": told["model"] | {"name": name}})
        for share in (False, True):
            page = Page(build(run, share=share)[0].read_text(encoding="utf-8"))
            facts = "".join(page.texts).partition("Model")[2].partition("parameters")[0]
            assert facts.startswith(shown)


def study() -> dict[str, Any]:
    return studies.study(targets=("math", "code"), budgets=("1%", "20%"), test_rows=24, other=None,
                         methods=("less-round-robin", "rds+", "embed", "bm25", "ifd"))


def view(result: dict[str, Any]) -> dict[str, Any]:
    return build_view(Results.model_validate(result), "x")


def test_a_study_draws_every_arm_over_all_targets_and_names_the_best_that_is_told() -> None:
    result = study()
    found = view(result)["answers"]
    assert re.fullmatch(r"less-round-robin lowered the held-out loss by \d+% against random over 2 targets \(95% "
                        r"interval \d+% to \d+%\); so did \d other arms?\.", found["sentence"])
    drawn = [title.rpartition(": ")[0] for title in titles(found["picture"])]
    assert sorted(drawn) == sorted(["less-round-robin", "rds+", "embed", "bm25 (one training, no verdict)", "ifd",
                                    "full", "length-matched-random", "zero-shot"])
    assert len(classes(found["picture"], "zero")) == 1
    assert classes(found["picture"], "mean single") == ["mean single"]
    assert found["hidden"] == 0


def test_a_study_of_many_arms_shows_the_best_the_worst_and_zero_shot_and_folds_the_rest() -> None:
    names = [f"method-{i:02}" for i in range(30)]
    found = view(studies.study(targets=("math",), budgets=("5%",), methods=names, test_rows=6, other=None,
                               deciles=()))["answers"]
    shown, whole = titles(found["picture"]), titles(found["whole"])
    assert (len(shown), len(whole), found["hidden"]) == (18, 33, 15)
    assert shown[-1].startswith("zero-shot")
    chosen = [title for title in whole if title.startswith("method-")]
    assert shown[:17] == [*chosen[:16], chosen[-1]]


def test_at_one_target_and_budget_the_test_there_is_the_answer() -> None:
    result = studies.study(targets=("math",), budgets=("5%",), methods=("rds+", "embed"), test_rows=24, other=None)
    [test] = [t for t in result["tests"] if (t["method"], t["against"]) == ("rds+", "random")]
    assert test["verdict"] == "better"
    found = view(result)["answers"]
    assert found["sentence"].startswith("rds+ lowered the held-out loss by ")
    assert "p after Holm" in found["sentence"]
    test["verdict"] = "no different"
    found = view(result)["answers"]
    assert found["sentence"].startswith("No method beat random")
    assert "mean method" not in classes(found["picture"], "mean ")


def test_a_study_that_has_compared_nothing_says_so() -> None:
    found = view(studies.begun())["answers"]
    assert found["sentence"] == "No method has been compared with random yet."
    assert classes(found["picture"], "empty")
    assert titles(found["watch"]["picture"]) == ["Trainings done: 0 of 91 (watch this)",
                                                 "Compared: not yet (watch this)"]


def test_zero_shot_counts_as_no_training_of_a_study() -> None:
    result = study()
    trained = {cell["id"]: cell["status"] for cell in result["cells"] if cell["subset"]}
    assert len(trained) < len({cell["id"] for cell in result["cells"]})
    found = view(result)
    assert found["trainings"] == {"done": len(trained), "missing": 0, "failed": 0}
    assert f"Trainings done: {len(trained):,} of {len(trained):,}" in titles(found["answers"]["watch"]["picture"])
    begun = view(studies.begun())
    missing = begun["trainings"]["missing"]
    assert begun["verdict"]["cautions"][0].startswith(f"{missing} trainings of {missing} are still missing")


def page_of(folder: Path, result: dict[str, Any]) -> str:
    folder.mkdir()
    runs.write_json(folder / "study.json", result)
    return next(path for path in build(folder) if path.suffix == ".html").read_text(encoding="utf-8")


def test_curves_and_costs_name_their_lines_and_dots_and_there_is_one_plane_of_curves_a_target(tmp_path: Path) -> None:
    result = study()
    html = page_of(tmp_path / "study", result)
    charts = re.split(r"(?=<svg class=\"chart\")", html)[1:]
    curves = [chart for chart in charts if "<title>Loss against rows, " in chart]
    costs = [chart for chart in charts if "<title>Gain over random against cost, " in chart]
    assert (len(curves), len(costs)) == (2, 4)
    for chart in [*curves, *costs]:
        for name in (*result["settings"]["methods"], "random"):
            assert name in texts(chart)
        assert not re.search(r"class=\"dot-mark", chart), "no numbers that need a key"


def test_an_arm_whose_cost_is_not_known_is_named_below_the_plane(tmp_path: Path) -> None:
    result = study()
    for arm in result["arms"]:
        if (arm["name"], arm["target"], arm["budget"]) == ("rds+", "math", "1%"):
            arm["selection_seconds"] = None
    html = page_of(tmp_path / "study", result)
    assert html.count("Not drawn, since features that another run left have no known cost: rds+.") == 1
