"""`siftune select --from RUN --pool OTHER`: of a pool that has changed, only new rows are computed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from siftune._common.files import read_json
from siftune.features.store import FeatureStore
from tests import tiny
from tests.cli.command import siftune
from tests.cli.conftest import Files
from tests.cli.pools import jsonl, records
from tests.cli.runs import check_run_folder, ids_of, table

NEW_ROWS = 3


@pytest.fixture
def grown(tmp_path: Path) -> Path:
    """The pool of the session without two rows, with one edited, three new ones, and in another order."""
    rows = records("messages", range(40))
    rows[7] = {**records("messages", range(300, 301))[0], "id": rows[7]["id"]}
    kept = [row for i, row in enumerate(rows) if i not in (3, 20)]
    return jsonl(tmp_path / "grown.jsonl", [*records("messages", range(400, 402), "new"), *kept[::-1]])


def taken(run: Path) -> Any:
    return read_json(run / "manifest.json")["from_earlier_pools"]


def features(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for name in ("store", "warmup") for path in (run / name).rglob("*")
            if path.is_file()}


def test_the_selection_is_that_of_a_fresh_run_with_the_same_checkpoints(
        copy: Callable[[], Path], files: Files, grown: Path, tmp_path: Path) -> None:
    run, after, fresh = copy(), tmp_path / "after", tmp_path / "fresh"
    before = features(run)
    done = siftune("select", "--from", run, "--pool", grown, "--output-dir", after).ok()
    check_run_folder(after, pool_rows=40, selected=8)
    assert "37 of 40 rows of less/pool (in each of 2 stores) have their features from " in done.err
    assert f"{run}; 3 are computed" in done.err
    assert f"the checkpoints of {run} are used, trained on 8 of the 40 rows" in done.err
    assert taken(after)["less/pool"] == {"rows": 40, "taken": {str(run): 37}, "computed": NEW_ROWS}
    assert taken(after)["warmup"] == {"from": str(run), "rows": 8, "pool_rows": 40}
    assert features(run) == before, "the earlier run is only read"
    shutil.copytree(after / "warmup", fresh / "warmup")
    siftune(*files.select[:4], grown, *files.select[5:], "--output-dir", fresh).ok()
    assert taken(fresh).keys() == {"warmup"}
    assert ids_of(after) == ids_of(fresh)
    mine, theirs = (table(one / "scores.parquet", "score")["score"] for one in (after, fresh))
    assert mine == pytest.approx(theirs, abs=1e-5)
    siftune("doctor", after, "--model", "none").ok()


def test_runs_after_it_find_the_features_of_their_own_pool(copy: Callable[[], Path], files: Files, grown: Path,
                                                           tmp_path: Path) -> None:
    run, after = copy(), tmp_path / "after"
    siftune("select", "--from", run, "--pool", grown, "--output-dir", after).ok()
    siftune("select", "--from", run, "--pool", grown, "--output-dir", after).ok()
    kept = features(after)
    for name, pool in (("same", grown), ("first", files.pool)):
        again = tmp_path / name
        done = siftune("select", "--from", after, "--pool", pool, "--budget", 5, "--output-dir", again).ok()
        assert "computed" not in done.err
        assert not (again / "store").exists()
        steps = {step["step"]: step["reused"] for step in read_json(again / "manifest.json")["times"]}
        assert steps["pool features"]
    assert features(after) == kept
    more = jsonl(tmp_path / "more.jsonl", [*map(json.loads, grown.read_text().splitlines()),
                                           *records("messages", range(3, 4))])
    siftune("select", "--from", tmp_path / "same", "--pool", more, "--output-dir", tmp_path / "third").ok()
    assert taken(tmp_path / "third")["less/pool"] == {"rows": 41, "taken": {str(after): 40, str(run): 1}, "computed": 0}
    assert FeatureStore.load(tmp_path / "third/store/less/pool/epoch-1").complete


def test_in_one_folder_another_pool_is_refused_as_ever(copy: Callable[[], Path], files: Files, grown: Path,
                                                       tmp_path: Path) -> None:
    run = copy()
    siftune(*files.select[:4], grown, *files.select[5:], "--output-dir", run).refused("made with another pool")
    after = tmp_path / "after"
    siftune("select", "--from", run, "--pool", grown, "--output-dir", after).ok()
    smaller = jsonl(tmp_path / "smaller.jsonl", records("messages", range(20)))
    siftune("select", "--from", run, "--pool", smaller, "--output-dir", after).refused("made with another pool",
                                                                                      str(after))


@pytest.mark.parametrize(("flags", "field"), [(("--set", "projection_dim=32"), "projection_dim"),
                                              (("--lora-rank", 3), "lora.rank"), (("--max-length", 64), "max_length")])
def test_other_settings_are_refused(flags: tuple[Any, ...], field: str, copy: Callable[[], Path], grown: Path,
                                    tmp_path: Path) -> None:
    siftune("select", "--from", copy(), "--pool", grown, *flags, "--output-dir", tmp_path / "after").refused(field)


def test_another_model_is_refused(copy: Callable[[], Path], grown: Path, tmp_path: Path) -> None:
    other = tiny.save(tmp_path / "model", seed=1)
    siftune("select", "--from", copy(), "--pool", grown, "--model", other, "--output-dir", tmp_path / "after").refused(
        "another model")


@pytest.mark.parametrize("method", ["embed", "two-stage", "fusion"])
def test_methods_that_are_made_of_others(method: str, files: Files, grown: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.yaml"
    small.write_text("two-stage: {keep: 2}\nless: {warmup_epochs: 1, warmup_rows: 8}\nfusion: {signals: [bm25, rds]}\n")
    flags = ("--method", method, "--config", small)
    siftune(*files.select[:-2], *flags, "--output-dir", tmp_path / "before").ok()
    siftune("select", "--from", tmp_path / "before", "--pool", grown, "--output-dir", tmp_path / "after").ok()
    if method == "two-stage":
        shutil.copytree(tmp_path / "after/warmup", tmp_path / "fresh/warmup")
    siftune(*files.select[:4], grown, *files.select[5:-2], *flags, "--output-dir", tmp_path / "fresh").ok()
    assert ids_of(tmp_path / "after") == ids_of(tmp_path / "fresh")
    told = {name: one for name, one in taken(tmp_path / "after").items() if name.endswith("/pool")}
    assert told
    assert all(one["computed"] < one["rows"] / 2 for one in told.values())
