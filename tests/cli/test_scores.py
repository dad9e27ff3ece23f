"""`scores.parquet` says by what rows were ranked: whoever has that file alone can make the selection again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from siftune._common.files import read_json
from siftune.selectors import SELECTORS
from tests.cli.command import siftune
from tests.cli.conftest import Files
from tests.cli.pools import jsonl, record, records
from tests.cli.runs import ids_of, table

RANKING = {"top-k", "top-k-mean", "top-k-subtask", "unbalanced-ot", "balanced-ot", "knn-uniform", "knn-kde",
           "resampling", "longest"}
"""Selectors that rank all rows before they take any."""

WITH_OTHER_RULES = {"deita", "k-means-balanced"}
WITHOUT_SCORES = {"random", "length-matched-random"}


def order_of(scores: dict[str, list[Any]]) -> list[str]:
    """The documented order of all rows that nothing but their score decides: score, mean similarity, id."""
    rows = [i for i, constraint in enumerate(scores["constraint"]) if constraint is None]
    rows.sort(key=lambda i: (-scores["score"][i], -(scores["mean_similarity"][i] or 0.0), scores["id"][i]))
    return [scores["id"][i] for i in rows]


@pytest.fixture(scope="module")
def finished(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scores") / "run"
    siftune(*files.select, "--method", "logra", "--output-dir", folder).ok()
    return folder


@pytest.mark.parametrize("selector", sorted(SELECTORS.names()))
def test_the_selection_of_every_selector_that_ranks_can_be_made_again_from_the_file_alone(
        selector: str, finished: Path, tmp_path: Path) -> None:
    known = jsonl(tmp_path / "old.jsonl", records("messages", range(300, 304), "old"))
    (tmp_path / "in").write_text("row007\n")
    (tmp_path / "out").write_text("row001\nrow002\nrow003\n")
    run = tmp_path / "run"
    siftune("select", "--from", finished, "--selector", selector, "--budget", 9, "--existing", known,
            "--must-include", tmp_path / "in", "--must-exclude", tmp_path / "out", "--near-duplicates", 0.5,
            "--quota", "x=..4", "--output-dir", run).ok()
    scores, chosen = table(run / "scores.parquet"), ids_of(run)
    ranked = read_json(run / "manifest.json")["diagnostics"]["ranked"]
    of_chosen = dict(zip(scores["id"], scores["score"], strict=True))
    assert [scores["constraint"][scores["id"].index(f"row00{i}")] for i in (1, 2, 3, 7)] == [
        *["must-exclude"] * 3, "must-include"]
    if selector in RANKING:
        assert ranked == "all rows"
        assert None not in scores["score"]
        assert ["row007", *order_of(scores)[: len(chosen) - 1]] == chosen
    elif selector in WITH_OTHER_RULES:
        assert ranked == "with other rules"
        assert None not in scores["score"]
    elif selector in WITHOUT_SCORES:
        assert ranked == "no rows"
        assert set(scores["score"]) == {None}
    else:
        assert ranked == "when taken"
        assert {row for row, score in of_chosen.items() if score is not None} == set(chosen)
    if selector not in WITHOUT_SCORES:
        assert [of_chosen[row] for row in chosen] == table(run / "selection.parquet")["score"]


def test_a_sample_by_mass_is_the_order_of_its_scores(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    siftune("select", "--from", finished, "--selector", "knn-uniform", "--set", "draw=sample", "--budget", 6,
            "--seed", 0, "--output-dir", run).ok()
    scores = table(run / "scores.parquet")
    assert order_of(scores)[:6] == ids_of(run)


def test_the_report_shows_what_the_selector_ranked_by(finished: Path, tmp_path: Path) -> None:
    """LESS ranks by the best subtask's mean: the cut and the rows above it are of those numbers."""
    run = tmp_path / "run"
    siftune("select", "--from", finished, "--selector", "top-k-subtask", "--output-dir", run).ok()
    shown, scores = read_json(run / "report.json")["scores"], table(run / "scores.parquet")
    assert (shown["of"], shown["passed_over"]) == ("score", 0)
    assert shown["cut"] == min(s for s, taken in zip(scores["score"], scores["selected"], strict=True) if taken)
    assert scores["score"] != scores["similarity"]
    siftune("select", "--from", finished, "--selector", "round-robin", "--output-dir", run).ok()
    shown = read_json(run / "report.json")["scores"]
    assert (shown["of"], shown["cut"], sum(shown["pool"])) == ("similarity", None, 40)


def test_a_rejected_row_comes_with_the_score_that_decided(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    siftune("select", "--from", finished, "--selector", "top-k-subtask", "--budget", 5, "--output-dir", run).ok()
    nearly = [json.loads(line) for line in (run / "rejected_sample.jsonl").read_text().splitlines()]
    assert [row["id"] for row in nearly] == order_of(table(run / "scores.parquet"))[5:]
    assert {row["by"] for row in nearly} == {"score"}


def told(run: Path, err: str) -> list[str]:
    """The warnings of a run, which stand in its manifest, at the top of its report, and on the screen."""
    found = read_json(run / "manifest.json")["warnings"]
    assert read_json(run / "report.json")["warnings"] == found
    page = (run / "report.html").read_text(encoding="utf-8")
    for warning in found:
        assert warning.partition(" (")[0] in err
        assert warning.partition("'")[0].partition(" (")[0] in page
    return found


def test_subtasks_and_targets_that_got_nothing_are_told(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = siftune("select", "--from", finished, "--selector", "round-robin", "--budget", 2, "--output-dir", run).ok()
    assert any("4 of 6 targets have no selected row (target" in one and "fewer selected rows than targets" in one
               for one in told(run, done.err))
    done = siftune("select", "--from", finished, "--selector", "top-k", "--budget", 1, "--output-dir", run).ok()
    assert any("1 of 2 subtasks has no selected row (" in one for one in told(run, done.err))
    done = siftune("select", "--from", finished, "--selector", "round-robin", "--budget", 12, "--output-dir", run).ok()
    assert not told(run, done.err)


def test_what_keeps_the_budget_from_being_met_is_told(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("".join(f"row{i:03}\n" for i in range(0, 40, 2)))
    run = tmp_path / "run"
    done = siftune("select", "--from", finished, "--selector", "random", "--must-exclude", tmp_path / "out",
                   "--near-duplicates", 0.5, "--budget", "20", "--quota", "x=..3", "--output-dir", run).ok()
    [warning] = [one for one in told(run, done.err) if "not met" in one]
    for part in ("the budget 20 is not met", "--must-exclude takes out 20", "above the ceilings of --quota"):
        assert part in warning


def test_a_subset_from_one_source_is_told(files: Files, tmp_path: Path) -> None:
    rare = jsonl(tmp_path / "rare.jsonl", [record("messages", i, id=f"rare{i}") for i in range(100, 105)])
    many = jsonl(tmp_path / "many.jsonl", [record("messages", i, id=f"many{i}") for i in range(40)])
    target = jsonl(tmp_path / "target.jsonl", [record("messages", i, id=f"t{i}") for i in range(100, 105)])
    run = tmp_path / "run"
    done = siftune("select", "--model", files.model, "--pool", many, "--pool", rare, "--target", target,
                   "--method", "bm25", "--budget", 5, "--output-dir", run).ok()
    assert any("of the selected rows are of the source rare, which has 11.1% of the pool" in one
               for one in told(run, done.err))
    done = siftune("select", "--from", run, "--method", "random", "--seed", 3, "--budget", 20,
                   "--output-dir", tmp_path / "other").ok()
    assert not any("of the selected rows are of" in one for one in told(tmp_path / "other", done.err))
