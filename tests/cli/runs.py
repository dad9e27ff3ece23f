"""Reading a run folder with nothing of siftune's, and checking that its files say the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from pyarrow import parquet

TABLES = ("selected.jsonl", "selection.parquet", "scores.parquet", "rejected_sample.jsonl", "dropped.jsonl",
          "targets.jsonl", "config.yaml", "manifest.json", "report.html", "report.json")
"""The files that `select` leaves at the top of a run folder."""


def lines(path: Path) -> list[str]:
    """The lines of a file; only a line feed ends a line."""
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def objects(path: Path) -> list[Any]:
    return [json.loads(line) for line in lines(path)]


def table(path: Path, *columns: str) -> dict[str, list[Any]]:
    return parquet.read_table(path, columns=list(columns) or None).to_pydict()


def ids_of(run: Path) -> list[str]:
    """The selected ids, best first."""
    return table(run / "selection.parquet", "id")["id"]


def temporary_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith(".tmp") or path.name == ".writable"]


def check_run_folder(run: Path, *, pool_rows: int, selected: int) -> None:
    """Every file is there, none is left over, and all tell of the same selection."""
    assert {path.name for path in run.iterdir() if path.is_file()} >= set(TABLES)
    assert not temporary_files(run)
    manifest = json.loads((run / "manifest.json").read_text())
    selection, scores = table(run / "selection.parquet"), table(run / "scores.parquet")
    raw, dropped = objects(run / "selected.jsonl"), objects(run / "dropped.jsonl")
    usable = len(scores["id"])

    assert len(raw) == len(selection["id"]) == sum(scores["selected"]) == selected
    assert selection["rank"] == list(range(1, selected + 1))
    assert len(set(selection["id"])) == selected
    assert len(set(scores["id"])) == usable
    for row, row_id in zip(raw, selection["id"], strict=True):
        assert row.get("id", row_id) == row_id

    # scores.parquet and selection.parquet agree row by row.
    place = {row_id: i for i, row_id in enumerate(scores["id"])}
    for rank, row_id in enumerate(selection["id"], start=1):
        i = place[row_id]
        assert (scores["selected"][i], scores["rank"][i]) == (True, rank)
        for column in ("tokens", "source", "group"):
            assert scores[column][i] == selection[column][rank - 1]
        assert 0 < scores["supervised"][i] < scores["tokens"][i]
    assert [r for r, taken in zip(scores["rank"], scores["selected"], strict=True) if not taken] == (
        [None] * (usable - selected))

    # What was nearly chosen was not chosen, and comes in the order of its score.
    nearly = objects(run / "rejected_sample.jsonl")
    assert [row["rank"] for row in nearly] == list(range(selected + 1, selected + 1 + len(nearly)))
    assert not {row["id"] for row in nearly} & set(selection["id"])
    assert [row["score"] for row in nearly] == sorted((row["score"] for row in nearly), reverse=True)
    if scores["similarity"][0] is not None:
        assert len(nearly) == min(100, usable - selected)
        for row in nearly:
            assert (row["score"], row["nearest_target"]) == (
                scores[row["by"]][place[row["id"]]], scores["nearest_target"][place[row["id"]]])

    # Each selected row counts for one target at most, and targets have the similarity of their best row.
    targets = objects(run / "targets.jsonl")
    assert len(targets) == manifest["data"]["target_rows"]
    nearest = [name for name in selection["nearest_target"] if name is not None]
    if set(nearest) <= {target["id"] for target in targets}:
        for target in targets:
            assert target["selected"] == nearest.count(target["id"])
    else:  # what rows are compared with are whole subtasks
        assert sum(target["selected"] for target in targets) == len(nearest)
    if scores["similarity"][0] is not None:
        assert max(target["best_similarity"] for target in targets) == max(scores["similarity"])

    data, budget = manifest["data"], manifest["budget"]
    assert (data["pool_rows"], data["usable_rows"]) == (pool_rows, usable)
    assert sum(source["rows"] for source in data["sources"]) == usable
    assert data["dropped"] == len(dropped)
    assert (budget["rows"], budget["tokens"]) == (selected, sum(selection["tokens"]))
    assert budget["asked"] == yaml.safe_load((run / "config.yaml").read_text())["budget"]
    report = json.loads((run / "report.json").read_text())
    assert selection["id"][0] in json.dumps(report)
    assert (run / "report.html").read_text().lstrip().lower().startswith("<!doctype html>")
