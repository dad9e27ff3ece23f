"""Sentence embeddings, BM25, DSIR and a user's own numbers from the command line, on a tiny model's tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.cli.command import siftune
from tests.cli.conftest import Files
from tests.cli.pools import conversation, jsonl, records
from tests.cli.runs import check_run_folder, ids_of, table
from tests.interrupt import stopped_after

METHODS = ("embed", "bm25", "dsir")


@pytest.mark.parametrize("method", METHODS)
def test_a_method_runs_without_the_language_model_and_again_to_the_same(method: str, files: Files, tmp_path: Path,
                                                                        ) -> None:
    told = siftune(*files.select, "--method", method, "--output-dir", tmp_path / "run").ok()
    assert "model " not in told.err, "no weights are loaded"
    check_run_folder(tmp_path / "run", pool_rows=40, selected=8)
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["method"]["representation"] == method
    assert manifest["store"]["fingerprint"]
    before = ids_of(tmp_path / "run")
    siftune(*files.select, "--method", method, "--output-dir", tmp_path / "run").ok()
    siftune(*files.select, "--method", method, "--shard-rows", 3, "--batch-tokens", 1,
            "--output-dir", tmp_path / "other").ok()
    assert ids_of(tmp_path / "run") == ids_of(tmp_path / "other") == before


@pytest.mark.parametrize("method", METHODS)
def test_rows_of_the_targets_kind_are_chosen(method: str, files: Files, tmp_path: Path) -> None:
    """The pool has sums, sorting and counting in equal parts; targets that sort find rows that sort."""
    target = jsonl(tmp_path / "target.jsonl", records("messages", range(103, 120, 3), "target"))
    siftune("select", "--model", files.model, "--pool", files.pool, "--target", target, "--budget", 8,
            "--method", method, "--output-dir", tmp_path / "run").ok()
    chosen = [int(row_id.removeprefix("row")) for row_id in ids_of(tmp_path / "run")]
    assert all(conversation(i)[0].startswith("Sort") for i in chosen)


def test_an_interrupted_embedding_continues_to_the_same_selection(files: Files, tmp_path: Path) -> None:
    siftune(*files.select, "--method", "embed", "--output-dir", tmp_path / "whole").ok()
    with stopped_after(2):
        assert siftune(*files.select, "--method", "embed", "--output-dir", tmp_path / "part").code == 130
    assert len(list((tmp_path / "part").rglob("shard-*.safetensors"))) == 2
    siftune(*files.select, "--method", "embed", "--output-dir", tmp_path / "part").ok()
    assert ids_of(tmp_path / "part") == ids_of(tmp_path / "whole")
    siftune("doctor", tmp_path / "part", "--model", "none").ok()


def test_embeddings_of_an_earlier_run_serve_selectors_of_every_kind(files: Files, tmp_path: Path) -> None:
    siftune(*files.select, "--method", "embed", "--output-dir", tmp_path / "run").ok()
    for selector in ("k-center", "facility-location", "unbalanced-ot", "top-k-subtask"):
        out = tmp_path / selector
        siftune("select", "--from", tmp_path / "run", "--selector", selector, "--budget", 5, "--output-dir", out).ok()
        check_run_folder(out, pool_rows=40, selected=5)
        times = json.loads((out / "manifest.json").read_text())["times"]
        assert [t["reused"] for t in times if t["step"] == "pool embeddings"] == [True]


def test_scores_of_ones_own_choose_the_highest(files: Files, tmp_path: Path) -> None:
    ids = [f"row{i:03}" for i in range(40)]
    values = np.random.default_rng(0).permutation(40).astype(float)
    best = [ids[i] for i in np.argsort(-values)[:8]]
    np.save(tmp_path / "scores.npy", values)
    (tmp_path / "scores.csv").write_text("score,id\n" + "".join(
        f"{v},{i}\n" for v, i in reversed(list(zip(values, ids, strict=True)))))
    for name in ("scores.npy", "scores.csv"):
        run = tmp_path / name.replace(".", "-")
        siftune(*files.select, "--representation", f"file:{tmp_path / name}", "--selector", "top-k",
                "--output-dir", run).ok()
        check_run_folder(run, pool_rows=40, selected=8)
        assert ids_of(run) == best
    again = tmp_path / "again"  # what a run has scored is such a file, too
    siftune(*files.select, "--representation", f"file:{run / 'scores.parquet'}", "--selector", "top-k",
            "--output-dir", again).ok()
    assert ids_of(again) == best


def test_vectors_of_ones_own_are_compared_with_those_of_the_targets(files: Files, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pool, target = rng.normal(size=(40, 5)), rng.normal(size=(6, 5))
    np.save(tmp_path / "pool.npy", pool)
    np.save(tmp_path / "target.npy", target)
    run = tmp_path / "run"
    siftune(*files.select, "--representation", f"file:{tmp_path / 'pool.npy'}", "--selector", "top-k",
            "--set", f"target_vectors={tmp_path / 'target.npy'}", "--output-dir", run).ok()
    check_run_folder(run, pool_rows=40, selected=8)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (target, pool)]
    best = (unit[0] @ unit[1].T).max(axis=0)
    np.testing.assert_allclose(table(run / "scores.parquet", "similarity")["similarity"], best, atol=1e-6)
    assert ids_of(run) == [f"row{i:03}" for i in np.argsort(-best)[:8]]
    parquet.write_table(pa.table({"id": [f"row{i:03}" for i in range(40)], "vector": pool.tolist()}),
                        tmp_path / "pool.parquet")
    for name in ("pool.npy", "pool.parquet"):
        siftune(*files.select, "--representation", f"file:{tmp_path / name}", "--selector", "k-center",
                "--output-dir", tmp_path / "center" / name).ok()
    assert ids_of(tmp_path / "center/pool.npy") == ids_of(tmp_path / "center/pool.parquet")


def test_a_row_left_out_of_the_pool_needs_ids(files: Files, tmp_path: Path) -> None:
    pool = jsonl(tmp_path / "pool.jsonl", [*records("messages", range(40)), {"id": "bad", "messages": []}])
    ids = [f"row{i:03}" for i in range(40)]
    np.save(tmp_path / "scores.npy", np.arange(41.0))
    (tmp_path / "scores.csv").write_text("id,score\n" + "".join(f"{x},{i}\n" for i, x in enumerate([*ids, "bad"])))
    rest = ("--pool", pool, "--bad-rows", "drop", "--model", files.model, "--budget", 4, "--selector", "top-k",
            "--output-dir", tmp_path / "run")
    siftune("select", *rest, "--representation", f"file:{tmp_path / 'scores.npy'}").refused(
        "41 rows", "40 usable", "1 rows too many", "by id")
    siftune("select", *rest, "--representation", f"file:{tmp_path / 'scores.csv'}").ok()
    assert ids_of(tmp_path / "run") == ids[:-5:-1]


@pytest.mark.parametrize(("arguments", "parts"), [
    (("--method", "embed", "--set", "embedding_model=./absent"), ("embedding", "./absent")),
    (("--method", "embed", "--set", "embedding_model=minlm"), ("did you mean minilm",)),
    (("--representation", "file:absent.npy", "--selector", "top-k"), ("absent.npy", "--representation")),
    (("--method", "dsir", "--set", "ngram_buckets=0"), ("ngram_buckets",)),
    (("--method", "dsir", "--selector", "round-robin"), ("--selector", "only have scores")),
])
def test_what_cannot_be_is_refused(arguments: tuple[object, ...], parts: tuple[str, ...], files: Files,
                                   tmp_path: Path) -> None:
    siftune(*files.select, *arguments, "--output-dir", tmp_path / "run").refused(*parts)
