"""Learning percentage and IFD from the command line, on a tiny model: no target, rows that the method rules out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from siftune._common.files import read_json
from siftune.features.gradients import warmup
from siftune.features.store import FeatureStore
from tests import tiny
from tests.cli.command import SMALL, Result, siftune
from tests.cli.conftest import Files
from tests.cli.pools import jsonl, records
from tests.cli.runs import check_run_folder, ids_of, lines, objects, table

METHODS = {
    "ifd": ("--method", "ifd"),
    "learning percentage": ("--method", "learning-percentage"),
    "learning percentage, one epoch": ("--method", "learning-percentage", "--set", "learning_percentage=app"),
}
TRAINED = "learning-percentage"


@pytest.fixture(scope="module")
def files(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The same pool with a model that the prompt helps with most rows, and harms with some."""
    return replace(files, model=Path(tiny.save(tmp_path_factory.mktemp("model"), seed=1)))


def select(files: Files, run: Path, *arguments: Any, pool: Path | None = None) -> Result:
    return siftune("select", "--model", files.model, "--pool", pool or files.pool, "--budget", 8, *SMALL, *arguments,
                   "--output-dir", run)


@pytest.fixture(scope="module")
def runs(files: Files, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of each method, not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    made = {name: folder / name.replace(" ", "-") for name in METHODS}
    for name, run in made.items():
        select(files, run, *METHODS[name]).ok()
    return made


def reused(run: Path) -> dict[str, bool]:
    return {entry["step"]: entry["reused"] for entry in read_json(run / "manifest.json")["times"]
            if entry["step"].startswith(("loss", TRAINED))}


def ruled_out(run: Path) -> list[str]:
    return [row["id"] for row in objects(run / "dropped.jsonl") if row["reason"] == "ifd-at-least-1"]


@pytest.mark.parametrize("method", METHODS)
def test_the_run_folder_and_its_report_are_whole(method: str, runs: dict[str, Path]) -> None:
    run = runs[method]
    check_run_folder(run, pool_rows=40, selected=8)
    report = read_json(run / "report.json")
    assert report["diagnostics"]["budget"]["rows"] == 8
    assert report["summary"]["method"]["representation"] == METHODS[method][1]
    assert not report["warnings"]
    siftune("doctor", run, "--model", "none").ok()


@pytest.mark.parametrize("method", ["ifd", "learning percentage, one epoch"])
def test_batches_shards_and_the_order_of_the_pool_change_nothing(method: str, runs: dict[str, Path], files: Files,
                                                                 tmp_path: Path) -> None:
    rows = lines(files.pool)
    pool = jsonl(tmp_path / "pool.jsonl", [*rows[11:], *reversed(rows[:11])])
    select(files, tmp_path / "run", *METHODS[method], "--batch-tokens", 50, "--shard-rows", 3, pool=pool).ok()
    assert ids_of(tmp_path / "run") == ids_of(runs[method])


def test_what_ifd_rules_out_is_listed_counted_and_neither_taken_nor_nearly_taken(runs: dict[str, Path]) -> None:
    run = runs["ifd"]
    scores, out = table(run / "scores.parquet"), ruled_out(run)
    ratio = dict(zip(scores["id"], scores["score"], strict=True))
    assert out == [row_id for row_id in scores["id"] if ratio[row_id] >= 1]
    assert 0 < len(out) < 32
    manifest = read_json(run / "manifest.json")
    assert manifest["data"]["dropped"] == len(out) == manifest["diagnostics"]["ifd_at_least_1"]
    assert manifest["diagnostics"]["candidates"] == 40 - len(out)
    left = sorted((row_id for row_id in ratio if row_id not in out), key=lambda row_id: -ratio[row_id])
    assert ids_of(run) == left[:8]
    assert [row["id"] for row in objects(run / "rejected_sample.jsonl")] == left[8:]
    assert str(len(out)) in json.dumps(read_json(run / "report.json")["dropped"])


def test_a_row_that_must_be_included_stays_in_though_it_is_ruled_out(runs: dict[str, Path], tmp_path: Path) -> None:
    wanted, *out = ruled_out(runs["ifd"])
    (tmp_path / "ids").write_text(wanted + "\n")
    run = tmp_path / "run"
    siftune("select", "--from", runs["ifd"], "--must-include", tmp_path / "ids", "--output-dir", run).ok()
    check_run_folder(run, pool_rows=40, selected=8)
    assert ids_of(run) == [wanted, *ids_of(runs["ifd"])[:7]]
    assert ruled_out(run) == out
    assert read_json(run / "manifest.json")["data"]["dropped"] == len(out)


def test_a_budget_above_what_ifd_leaves_takes_all_of_it_and_says_so(runs: dict[str, Path], tmp_path: Path) -> None:
    out, run = ruled_out(runs["ifd"]), tmp_path / "run"
    for budget in (40 - len(out), 39, "100%"):
        told = siftune("select", "--from", runs["ifd"], "--budget", budget, "--output-dir", run).ok()
        check_run_folder(run, pool_rows=40, selected=40 - len(out))
        warnings = read_json(run / "manifest.json")["warnings"]
        if budget == 40 - len(out):
            assert not warnings
            assert "not met" not in told.err
        else:
            [warning] = warnings
            assert warning.startswith(f"the budget {budget} is not met: ifd rules out {len(out)} of 40 usable rows")
            assert f"{40 - len(out)} rows are all" in warning
            assert warning in told.err.replace("\n", " ")
            assert warning in read_json(run / "report.json")["warnings"]


def test_where_ifd_leaves_no_row_it_says_why(runs: dict[str, Path], tmp_path: Path) -> None:
    out = ruled_out(runs["ifd"])
    others = [row_id for row_id in table(runs["ifd"] / "scores.parquet")["id"] if row_id not in out]
    (tmp_path / "ids").write_text("\n".join(others) + "\n")
    siftune("select", "--from", runs["ifd"], "--must-exclude", tmp_path / "ids", "--budget", 5, "--output-dir",
            tmp_path / "run").refused("rules out every row", "--method", f"ifd-at-least-1: {len(out)}")


@pytest.mark.parametrize("method", ["ifd", "learning percentage, one epoch"])
def test_budgets_in_rows_are_exact_and_in_tokens_as_full_as_they_can_be(method: str, runs: dict[str, Path],
                                                                        tmp_path: Path) -> None:
    out = ruled_out(runs[method])
    for budget in (1, 13, "15%"):
        siftune("select", "--from", runs[method], "--budget", budget, "--output-dir", tmp_path / "run").ok()
        check_run_folder(tmp_path / "run", pool_rows=40, selected=6 if budget == "15%" else int(budget))
        assert all(reused(tmp_path / "run").values()), "another budget trains and runs nothing again"
    assert not (tmp_path / "run" / TRAINED).exists()
    siftune("select", "--from", runs[method], "--budget", "400tok", "--output-dir", tmp_path / "run").ok()
    scores = table(tmp_path / "run/scores.parquet")
    remaining = 400 - sum(t for t, taken in zip(scores["tokens"], scores["selected"], strict=True) if taken)
    left = [t for i, t, taken in zip(scores["id"], scores["tokens"], scores["selected"], strict=True)
            if not taken and i not in out]
    assert 0 <= remaining < min(left)
    assert not set(out) & set(ids_of(tmp_path / "run"))


def test_equal_rows_in_a_single_cluster_still_give_an_exact_budget(files: Files, tmp_path: Path) -> None:
    [record] = records("messages", range(1))
    pool = jsonl(tmp_path / "pool.jsonl", [{**record, "id": f"copy{i:02}"} for i in range(23)])
    arguments = METHODS["learning percentage, one epoch"]
    select(files, tmp_path / "run", *arguments, "--budget", 7, pool=pool).ok()
    assert ids_of(tmp_path / "run") == [f"copy{i:02}" for i in range(7)], "equal rows are taken by their ids"
    assert len(set(table(tmp_path / "run/scores.parquet")["score"])) == 1
    siftune("select", "--from", tmp_path / "run", "--budget", 9, "--set", "clusters=1", "--output-dir",
            tmp_path / "again").ok()
    assert len(ids_of(tmp_path / "again")) == 9


def test_without_clusters_no_embeddings_are_made(runs: dict[str, Path], tmp_path: Path) -> None:
    siftune("select", "--from", runs["learning percentage"], "--selector", "top-k", "--output-dir", tmp_path / "run",
            "--set", f"embedding_model={tmp_path / 'is-not-there'}").ok()
    scores = table(tmp_path / "run/scores.parquet")
    best = sorted(zip(scores["score"], scores["id"], strict=True), key=lambda pair: (-pair[0], pair[1]))[:8]
    assert ids_of(tmp_path / "run") == [row_id for _, row_id in best]
    siftune("select", "--from", runs["learning percentage"], "--output-dir", tmp_path / "run",
            "--set", f"embedding_model={tmp_path / 'is-not-there'}").refused("is-not-there")


def test_three_epochs_go_on_from_one(runs: dict[str, Path], files: Files, tmp_path: Path) -> None:
    run = tmp_path / "run"
    select(files, run, *METHODS["learning percentage, one epoch"]).ok()
    first = {path.name: path.read_bytes() for path in (run / TRAINED / "epoch-1").iterdir()}
    select(files, run, *METHODS["learning percentage"]).ok()
    assert {path.name: path.read_bytes() for path in (run / TRAINED / "epoch-1").iterdir()} == first
    assert reused(run) == {"loss before training": True, TRAINED: False, "loss after epoch 1": True,
                           "loss after epoch 3": False}
    assert table(run / "scores.parquet") == table(runs["learning percentage"] / "scores.parquet")
    select(files, run, *METHODS["learning percentage, one epoch"]).ok()
    assert all(reused(run).values())
    assert table(run / "scores.parquet") == table(runs["learning percentage, one epoch"] / "scores.parquet")


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_run_continues_to_the_same_selection(method: str, runs: dict[str, Path], files: Files,
                                                            tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, epoch, seen = FeatureStore.write, warmup._write, {"shards": 0, "epochs": 0}
    last = 2 if method == "learning percentage" else 1

    def shard_interrupted(*arguments: Any) -> None:
        seen["shards"] += 1
        if seen["shards"] == 3:
            raise KeyboardInterrupt
        store(*arguments)

    def epoch_interrupted(folder: Path, number: int, *rest: Any) -> None:
        seen["epochs"] += number == last
        if number == last and seen["epochs"] == 1:
            raise KeyboardInterrupt
        epoch(folder, number, *rest)

    monkeypatch.setattr(FeatureStore, "write", shard_interrupted)
    monkeypatch.setattr(warmup, "_write", epoch_interrupted)
    interruptions = 0
    while select(files, tmp_path / "run", *METHODS[method]).code == 130:
        interruptions += 1
    assert interruptions == (1 if method == "ifd" else 2)
    check_run_folder(tmp_path / "run", pool_rows=40, selected=8)
    assert table(tmp_path / "run/selection.parquet") == table(runs[method] / "selection.parquet")
    assert table(tmp_path / "run/scores.parquet") == table(runs[method] / "scores.parquet")


def test_losses_of_one_method_serve_the_other(runs: dict[str, Path], tmp_path: Path) -> None:
    siftune("select", "--from", runs["ifd"], "--method", "loss", "--output-dir", tmp_path / "run").ok()
    assert [entry["reused"] for entry in read_json(tmp_path / "run/manifest.json")["times"]
            if "forward pass" in entry["step"]] == [True]


def test_what_a_pass_collects_is_what_ifd_reads(runs: dict[str, Path], files: Files, tmp_path: Path) -> None:
    select(files, tmp_path / "first", "--method", "loss", "--collect", "ifd").ok()
    siftune("select", "--from", tmp_path / "first", "--method", "ifd", "--output-dir", tmp_path / "run").ok()
    assert all(reused(tmp_path / "run").values())
    assert ids_of(tmp_path / "run") == ids_of(runs["ifd"])


@pytest.mark.parametrize("method", METHODS)
def test_plan_tells_what_it_takes(method: str, files: Files, tmp_path: Path) -> None:
    told = siftune("plan", "--model", files.model, "--pool", files.pool, "--budget", 8, *SMALL, *METHODS[method],
                   "--output-dir", tmp_path / "run").ok().out
    assert "tokens at" in told
    assert ("pool embeddings" in told) == ("percentage" in method), "they are for the clusters"
    assert ("3 epochs" in told, "1 epoch " in told) == (method == "learning percentage", "one epoch" in method)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("method", "arguments", "parts"), [
    ("learning percentage", ("--set", "learning_percentage=ful"), ("learning_percentage", "did you mean 'full'")),
    ("learning percentage", ("--set", "training_learning_rate=0.01"),
     ("another training", "--recompute")),
    ("learning percentage, one epoch", ("--lora-rank", 4), ("another lora", "--recompute")),
    ("learning percentage", ("--set", "clusters=0"), ("clusters", "1 or more")),
    ("learning percentage", ("--selector", "round-robin"), ("similarities to targets",)),
    ("ifd", ("--selector", "k-means-balanced"), ("no vectors",)),
    ("ifd", ("--set", "clusters=3"), ("clusters", "k-means-balanced")),
    ("ifd", ("--budget", 41), ("more than the pool", "40")),
    ("ifd", ("--budget", "3tok"), ("too small",)),
])
def test_what_does_not_fit_is_refused(method: str, arguments: tuple[Any, ...], parts: tuple[str, ...],
                                      runs: dict[str, Path], tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in runs[method].rglob("*")}
    siftune("select", "--from", runs[method], *arguments, "--output-dir", tmp_path / "run").refused(*parts)
    assert {path: path.stat().st_mtime_ns for path in runs[method].rglob("*")} == before
