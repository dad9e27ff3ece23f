"""A report is made from the run folder alone, says what is missing, and holds every number of its page."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from siftune._common.errors import DataError
from siftune.report import build, formats
from siftune.report.runfolder import PURPOSE
from tests.report import runs
from tests.report.pages import Page


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = runs.write_run(tmp_path_factory.mktemp("report") / "run")
    runs.write_json(run / "comparison.json", runs.comparison())
    build(run)
    return run


def refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def numbers(run: Path) -> dict[str, Any]:
    return json.loads((run / "report.json").read_text(encoding="utf-8"), parse_constant=refuse)


def page(run: Path) -> Page:
    return Page((run / "report.html").read_text(encoding="utf-8"))


def test_build_returns_the_page_and_the_numbers(tmp_path: Path) -> None:
    run = runs.write_run(tmp_path / "run")
    assert build(run) == (run / "report.html", run / "report.json")
    assert (run / "report.html").is_file()
    assert numbers(run)["run"] == "run"


def test_the_same_run_gives_the_same_bytes(full: Path, tmp_path: Path) -> None:
    again = tmp_path / full.name
    shutil.copytree(full, again)
    build(again)
    for name in ("report.html", "report.json"):
        assert (again / name).read_bytes() == (full / name).read_bytes()


def test_the_page_opens_with_the_verdict_and_keeps_its_order(full: Path) -> None:
    shown = page(full)
    assert shown.tags >= {"h1", "nav", "main", "section", "table", "svg", "details"}
    headings = [i for i, (tag, _) in enumerate(shown.elements) if tag == "h1"]
    assert len(headings) == 1
    text = shown.text
    order = [
        "less-round-robin lowered the held-out target loss by 12% against random (95% interval 5% to 19%, 3 seeds).",
        "3 rows were cut to 512 tokens", "Comparison with random", "The subset beside the pool",
        "The lowest selected score", "Coverage of the targets", "Chosen first", "Nearly chosen", "empty-response",
        "Overlaps with targets and test", "2 min 20 s", "selector: round-robin", "What the score is not",
    ]
    place = 0
    for words in order:
        place = text.find(words, place)
        assert place >= 0, words


def test_every_number_in_a_table_stands_in_the_json(full: Path) -> None:
    known = {formats.MISSING, "no limit"}
    for leaf in leaves(numbers(full)):
        known |= {show(leaf) for show in (formats.number, formats.loss, formats.score, formats.p_value,
                                          formats.percent, formats.signed, formats.signed_percent, formats.duration)}
        known |= {formats.number(round(leaf, 1)), f"{leaf:.1f}"}
    for arm in numbers(full)["comparison"]["arms"]:
        known.add(str(len(arm["seeds"])))
    cells = page(full).cells
    assert len(cells) > 200
    for cell in cells:
        for shown in re.split(r", | × | \[|\]", cell):
            assert shown in known or not shown, cell


def leaves(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


def test_the_page_shows_targets_rows_drops_and_configuration(full: Path) -> None:
    report, text = numbers(full), page(full).text
    assert report["targets"]["without_rows"] == 1
    assert "1 target of 4 has none" in text
    assert [row["rank"] for row in report["rows"]["best"]] == list(range(1, 11))
    assert [row["rank"] for row in report["rows"]["nearly"]] == list(range(21, 31))
    assert report["rows"]["best"][0]["view"]["turns"][0]["role"] == "user"
    assert report["rows"]["best"][0]["target_gist"].startswith("Find the answer to ")
    assert report["dropped"]["count"] == 60
    assert report["dropped"]["reasons"] == [{"reason": "empty-response", "rows": 40},
                                            {"reason": "prompt-longer-than-limit", "rows": 20}]
    assert len(report["dropped"]["first"]) == 50
    assert "pool/flan.jsonl:50" in text
    assert "pool/flan.jsonl:51" not in text
    assert (full / "config.yaml").read_text() in text
    assert "siftune select --pool" in text


def test_without_a_comparison_the_page_says_so_and_claims_nothing(tmp_path: Path) -> None:
    run = runs.write_run(tmp_path / "run")
    build(run)
    assert numbers(run)["verdict"]["status"] == "not compared"
    assert "Not compared yet" in page(run).text
    assert "siftune compare" in page(run).text
    assert "lowered" not in page(run).text


@pytest.mark.parametrize("change", [
    {"tests": []}, {"arms": [], "tests": []}, {"settings": {}, "notes": []},
    {"arms": [{"name": "random", "kind": "baseline", "model": "m", "target": "target", "budget": "5"},
              {"name": "zero-shot", "kind": "baseline", "model": "m", "target": "target", "budget": None, "subtasks": {
                  "gcd": {"loss": {"mean": 1.0}, "exact_match": {}, "n": 3}}}], "tests": []},
])
def test_a_comparison_that_holds_little_still_makes_a_page(tmp_path: Path, change: dict[str, Any]) -> None:
    run = runs.write_run(tmp_path / "run")
    runs.write_json(run / "comparison.json", runs.comparison(**change))
    build(run)
    assert numbers(run)["verdict"]["status"] == ("not compared" if "tests" in change else "better")
    assert "How to read the intervals and tests" in page(run).text


def test_p_values_corrected_for_the_number_of_tests_are_shown_beside_the_plain_ones(tmp_path: Path) -> None:
    run, compared = runs.write_run(tmp_path / "run"), runs.comparison()
    runs.write_json(run / "comparison.json", compared)
    build(run)
    assert "p (Holm)" not in page(run).text
    compared["tests"][0]["p_value_holm"] = 0.777
    runs.write_json(run / "comparison.json", compared)
    build(run)
    assert "p (Holm)" in page(run).text
    assert "0.777" in page(run).cells


def test_a_random_selection_has_no_scores_and_no_targets_to_show(tmp_path: Path) -> None:
    run = runs.write_run(tmp_path / "run")
    n = 30
    runs.write_scores(run, {"id": [f"r{i}" for i in range(n)], "source": ["a"] * n, "group": ["a"] * n,
                            "score": [None] * n, "nearest_target": [None] * n, "similarity": [None] * n,
                            "tokens": [10] * n, "supervised": [5] * n, "selected": [i < 3 for i in range(n)],
                            "rank": [i + 1 if i < 3 else None for i in range(n)]})
    runs.write_selection(run, {"id": ["r0", "r1", "r2"], "rank": [1, 2, 3], "score": [None] * 3,
                               "nearest_target": [None] * 3, "gain": [None] * 3, "tokens": [10] * 3,
                               "source": ["a"] * 3, "group": ["a"] * 3})
    (run / "targets.jsonl").unlink()
    build(run)
    report = numbers(run)
    assert report["scores"] is None
    assert report["targets"] is None
    assert report["warnings"] == ["3 rows were cut to 512 tokens."]
    assert "This run has no scores" in page(run).text
    assert "matched no rows to single targets" in page(run).text


def test_scores_that_are_not_finite_are_counted_and_left_out(tmp_path: Path) -> None:
    run = runs.write_run(tmp_path / "run", n=20, selected=2)
    scores = [0.1 * i for i in range(17)] + [float("nan"), float("inf"), float("-inf")]
    runs.write_scores(run, {"id": [f"r{i}" for i in range(20)], "source": ["a"] * 20, "score": scores,
                            "tokens": [9] * 20, "selected": [i in (15, 16) for i in range(20)]})
    build(run)
    report = numbers(run)
    assert any(text.startswith("3 rows with a score that is not a finite number") for text in report["warnings"])
    assert sum(report["scores"]["pool"]) == 17
    assert sum(report["scores"]["selected"]) == 2
    assert report["scores"]["cut"] == pytest.approx(1.5)


def test_nothing_dropped_is_said_in_so_many_words(tmp_path: Path) -> None:
    run = runs.write_run(tmp_path / "run")
    (run / "dropped.jsonl").write_text("")
    build(run)
    assert numbers(run)["dropped"]["count"] == 0
    assert "No row was dropped." in page(run).text


@pytest.mark.parametrize("name", PURPOSE)
def test_a_missing_file_is_named_and_the_rest_is_shown(name: str, full: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(full, run)
    (run / name).unlink()
    build(run)
    assert [gap["file"] for gap in numbers(run)["missing"]] == [name]
    assert f"The run folder has no \n{name}" in page(run).text
    assert "lowered the held-out target loss" in page(run).text


@pytest.mark.parametrize("name", PURPOSE)
def test_any_single_file_is_enough_for_a_page(name: str, full: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(full / name, run / name)
    build(run)
    assert name not in [gap["file"] for gap in numbers(run)["missing"]]
    assert len(numbers(run)["missing"]) == len(PURPOSE) - 1
    assert "Glossary" in page(run).text


def test_a_run_without_selection_file_takes_the_order_from_the_scores(full: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(full, run)
    (run / "selection.parquet").unlink()
    build(run)
    wanted = [(row["rank"], row["id"]) for row in numbers(full)["rows"]["best"]]
    assert [(row["rank"], row["id"]) for row in numbers(run)["rows"]["best"]] == wanted


def test_files_of_two_different_runs_are_noticed(full: Path, tmp_path: Path) -> None:
    run, other = tmp_path / "run", runs.write_run(tmp_path / "other", selected=7)
    shutil.copytree(full, run)
    shutil.copy(other / "scores.parquet", run)
    build(run)
    assert any("not of the same run" in text for text in numbers(run)["warnings"])


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such run folder"):
        build(tmp_path / "nowhere")
    with pytest.raises(DataError, match="not a run folder") as refused:
        build(tmp_path)
    assert "siftune select" in str(refused.value)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(("name", "content", "where", "why"), [
    ("manifest.json", "{\n\n oops", "manifest.json:3", "Expecting property name"),
    ("manifest.json", "[]", "manifest.json", "dictionary"),
    ("comparison.json", '{"arms": [{"name": "x", "kind": "odd"}]}', "comparison.json", "arms.0.kind"),
    ("comparison.json", '{"schema": 2, "targets": [{"name": 3}]}', "comparison.json", "targets.0.name"),
    ("comparison.json", '{"schema": "two"}', "comparison.json", "schema"),
    ("comparison.json", '{"schema": 99, "shapes": []}', "comparison.json", "Its schema is 99"),
    ("targets.jsonl", '{"id": "a"}\n{"id": ', "targets.jsonl:2", "Expecting value"),
    ("dropped.jsonl", '{"id": "a", "source": "p", "where": "p:1", "reason": "empty", "detail": ""}\n7\n',
     "dropped.jsonl:2", None),
    ("dropped.jsonl", '{"id": "a"}\n', "dropped.jsonl:1", "source: Field required"),
    ("targets.jsonl", '{"id": "a", "selected": [1]}\n', "targets.jsonl:1", "selected: Input should be a valid integer"),
    ("scores.parquet", "not parquet", "scores.parquet", None),
])
def test_a_broken_file_is_named_with_its_place(tmp_path: Path, name: str, content: str, where: str,
                                               why: str | None) -> None:
    run = runs.write_run(tmp_path / "run")
    (run / name).write_text(content)
    with pytest.raises(DataError) as refused:
        build(run)
    assert (refused.value.where or "").endswith(where)
    assert why is None or why in (refused.value.why or "")
    assert refused.value.hint


def test_a_table_with_a_damaged_page_is_named(tmp_path: Path) -> None:
    table = runs.write_run(tmp_path / "run") / "scores.parquet"
    content = table.read_bytes()
    half = len(content) // 2
    table.write_bytes(content[:4] + b"\xff" * (half - 4) + content[half:])  # what describes the columns stays whole
    with pytest.raises(DataError, match=r"scores\.parquet is not a Parquet file") as refused:
        build(tmp_path / "run")
    assert refused.value.hint


def test_a_pool_of_100_000_rows_in_500_sources_stays_small(tmp_path: Path) -> None:
    run = runs.write_run(tmp_path / "run", n=100, selected=5)
    n = 100_000
    runs.write_scores(run, {"id": [f"row-{i}" for i in range(n)], "source": [f"source-{i % 500:03d}" for i in range(n)],
                            "group": [f"group-{i % 700}" for i in range(n)],
                            "score": [(i * 7919 % n) / n for i in range(n)], "tokens": [i % 900 + 1 for i in range(n)],
                            "supervised": [i % 90 + 1 for i in range(n)], "selected": [i % 20 == 0 for i in range(n)]})
    runs.write_jsonl(run / "selected.jsonl", [runs.chat("x" * 50_000, "y")] * 5)
    (run / "selection.parquet").unlink()
    runs.write_jsonl(run / "targets.jsonl", [
        {"id": f"t{i}", "subtask": "s", "messages": [{"role": "user", "content": "word " * 20}],
         "best_similarity": 0.5, "selected": i} for i in range(1000)])
    html, data = build(run)
    assert html.stat().st_size < 5_000_000
    assert data.stat().st_size < 5_000_000
    report = numbers(run)
    sources = report["composition"]["sources"]
    assert sources["count"] == 500
    assert len(sources["listed"]) == 21
    assert sources["listed"][-1]["name"] == "480 others"
    assert sum(entry["pool"] for entry in sources["listed"]) == n
    assert sum(report["composition"]["histogram"]["pool"]) == n
    assert sum(report["scores"]["pool"]) == n
    assert report["targets"]["count"] == len(report["targets"]["listed"]) == 1000
    assert [target["id"] for target in report["targets"]["shown"]] == [f"t{i}" for i in range(200)]
