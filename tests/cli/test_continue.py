"""Running again: with the same settings, with features of an earlier run, from its configuration, after damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from siftune._common.files import read_json
from tests.cli.command import siftune
from tests.cli.conftest import Files
from tests.cli.pools import jsonl, records
from tests.cli.runs import check_run_folder, ids_of, lines, table

STEPS = ("warmup", "pool features", "target features")


def reused(run: Path) -> dict[str, bool]:
    return {entry["step"]: entry["reused"] for entry in read_json(run / "manifest.json")["times"]
            if entry["step"] in STEPS}


def selection(run: Path) -> tuple[bytes, dict[str, list[Any]], dict[str, list[Any]]]:
    """Everything that a selection is, but for what names the run."""
    return (run / "selected.jsonl").read_bytes(), table(run / "selection.parquet"), table(run / "scores.parquet")


def features(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for name in ("store", "warmup") for path in (run / name).rglob("*")
            if path.is_file()}


def test_the_same_command_again_computes_nothing_and_selects_the_same(files: Files, finished: Path,
                                                                      copy: Callable[[], Path]) -> None:
    run = copy()
    before = features(run)
    siftune(*files.select, "--output-dir", run).ok()
    assert selection(run) == selection(finished)
    assert features(run) == before
    assert reused(run) == dict.fromkeys(STEPS, True)
    assert reused(finished) == dict.fromkeys(STEPS, False)


def test_another_selector_and_budget_reuse_all_features(finished: Path, tmp_path: Path) -> None:
    before = features(finished)
    siftune("select", "--from", finished, "--selector", "top-k", "--budget", 5, "--output-dir", tmp_path / "run").ok()
    check_run_folder(tmp_path / "run", pool_rows=40, selected=5)
    assert reused(tmp_path / "run") == dict.fromkeys(STEPS, True)
    assert not (tmp_path / "run/store").exists()
    assert features(finished) == before
    scores = table(finished / "scores.parquet", "id", "similarity")
    best = sorted(zip(scores["similarity"], scores["id"], strict=True), reverse=True)[:5]
    assert ids_of(tmp_path / "run") == [row_id for _, row_id in best]


def test_another_target_reuses_the_features_of_the_pool(copy: Callable[[], Path], tmp_path: Path, files: Files) -> None:
    run = copy()
    target = jsonl(tmp_path / "target.jsonl", records("messages", range(300, 304), "other"))
    siftune("select", "--from", run, "--target", target, "--output-dir", tmp_path / "again").ok()
    check_run_folder(tmp_path / "again", pool_rows=40, selected=8)
    assert reused(tmp_path / "again") == {"warmup": True, "pool features": True, "target features": False}
    siftune(*replace(files, target=target).select, "--output-dir", tmp_path / "fresh").ok()
    assert selection(tmp_path / "again") == selection(tmp_path / "fresh")


def test_runs_may_follow_each_other(finished: Path, tmp_path: Path) -> None:
    siftune("select", "--from", finished, "--budget", 5, "--output-dir", tmp_path / "second").ok()
    siftune("select", "--from", tmp_path / "second", "--budget", 6, "--output-dir", tmp_path / "third").ok()
    assert reused(tmp_path / "third") == dict.fromkeys(STEPS, True)
    assert ids_of(tmp_path / "third")[:5] == ids_of(tmp_path / "second")


def test_a_run_without_a_name_is_put_beside_the_one_it_came_from(copy: Callable[[], Path]) -> None:
    run = copy()
    result = siftune("select", "--from", run, "--selector", "top-k", "--budget", "10%").ok()
    check_run_folder(run.with_name("run-top-k-10pct"), pool_rows=40, selected=4)
    assert str(run.with_name("run-top-k-10pct")) in result.out


def test_the_configuration_of_a_run_replays_it(finished: Path, tmp_path: Path) -> None:
    siftune("select", "--config", finished / "config.yaml", "--output-dir", tmp_path / "run").ok()
    assert selection(tmp_path / "run") == selection(finished)
    assert reused(tmp_path / "run") == dict.fromkeys(STEPS, False)
    configs = [yaml.safe_load((run / "config.yaml").read_text()) for run in (finished, tmp_path / "run")]
    assert [config.pop("output_dir") for config in configs] == [str(finished), str(tmp_path / "run")]
    assert configs[0] == configs[1]


def test_flags_win_over_the_configuration_file(finished: Path, tmp_path: Path) -> None:
    siftune("select", "--config", finished / "config.yaml", "--budget", 3, "--method", "random",
            "--output-dir", tmp_path / "run").ok()
    assert len(ids_of(tmp_path / "run")) == 3
    assert read_json(tmp_path / "run/manifest.json")["method"]["representation"] == "none"


@pytest.mark.parametrize("flags", [("--batch-tokens", 50), ("--batch-tokens", 100_000), ("--shard-rows", 3),
                                   ("--shard-rows", 1000)])
def test_batches_and_shards_do_not_change_the_selection(files: Files, finished: Path, tmp_path: Path,
                                                        flags: tuple[str, int]) -> None:
    siftune(*files.select, *flags, "--output-dir", tmp_path / "run").ok()
    assert ids_of(tmp_path / "run") == ids_of(finished)
    mine, theirs = (table(run / "scores.parquet", "score")["score"] for run in (tmp_path / "run", finished))
    assert mine == pytest.approx(theirs, abs=1e-5)


@pytest.mark.slow
def test_several_processes_do_not_change_the_selection(files: Files, finished: Path, tmp_path: Path) -> None:
    siftune(*files.select, "--workers", 2, "--output-dir", tmp_path / "run").ok()
    assert selection(tmp_path / "run") == selection(finished)


def test_the_order_of_the_pool_does_not_change_the_selection(files: Files, finished: Path, tmp_path: Path) -> None:
    rows = lines(files.pool)
    pool = jsonl(tmp_path / "pool.jsonl", [*rows[17:], *reversed(rows[:17])])
    siftune(*replace(files, pool=pool).select, "--output-dir", tmp_path / "run").ok()
    assert ids_of(tmp_path / "run") == ids_of(finished)
    assert lines(tmp_path / "run/selected.jsonl") == lines(finished / "selected.jsonl")


def test_another_seed_gives_another_warmup_and_random_subset(files: Files, tmp_path: Path) -> None:
    for seed in (0, 1):
        siftune(*files.select, "--method", "random", "--seed", seed, "--output-dir", tmp_path / str(seed)).ok()
    assert ids_of(tmp_path / "0") != ids_of(tmp_path / "1")


def test_doctor_finds_a_flipped_byte_removes_the_shard_and_a_rerun_restores_it(files: Files, finished: Path,
                                                                              copy: Callable[[], Path]) -> None:
    run = copy()
    before = features(run)
    shard = run / "store/less/pool/epoch-2/shard-00001.safetensors"
    data = bytearray(shard.read_bytes())
    data[-7] ^= 4
    shard.write_bytes(data)
    assert siftune("doctor", run, "--model", "none").code == 1
    found = siftune("doctor", run, "--model", "none").out
    assert [line for line in found.splitlines() if line.startswith("FAIL")] == [
        line for line in found.splitlines() if "shard-00001" in line and "--repair" in line]
    assert found.count("FAIL") == 1
    siftune("doctor", run, "--model", "none", "--repair")
    assert not shard.exists()
    siftune(*files.select, "--output-dir", run).ok()
    assert features(run) == before
    assert selection(run) == selection(finished)
    assert reused(run) == {"warmup": True, "pool features": False, "target features": True}
    siftune("doctor", run, "--model", "none").ok()


def test_a_shard_with_a_flipped_bit_or_a_cut_end_is_made_again_without_being_asked(files: Files, finished: Path,
                                                                                   copy: Callable[[], Path]) -> None:
    run = copy()
    before = features(run)
    cut, flipped = (run / f"store/less/pool/epoch-1/shard-0000{i}.safetensors" for i in (0, 3))
    cut.write_bytes(cut.read_bytes()[:-100])
    data = bytearray(flipped.read_bytes())
    data[-7] ^= 4
    flipped.write_bytes(data)
    told = siftune(*files.select, "--output-dir", run).ok().err
    assert "2 of 5 shards of less/pool/epoch-1 were damaged (its bytes have changed) and are computed again" in told
    assert features(run) == before
    assert selection(run) == selection(finished)


def test_a_damaged_warmup_checkpoint_is_trained_again_and_never_used(files: Files, finished: Path,
                                                                     copy: Callable[[], Path]) -> None:
    run = copy()
    before = features(run)
    (run / "store/less/pool/epoch-1/shard-00000.json").unlink()  # so that the checkpoint is needed
    path = run / "warmup/epoch-1/adapter.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    told = siftune(*files.select, "--output-dir", run).ok().err
    assert "warmup/epoch-1 was damaged (its bytes have changed) and is made again" in told
    after = features(run)
    trained = run / "warmup/training/training.json"  # its note tells how long it took
    assert {path: after[path] for path in after if path != trained} == {
        path: before[path] for path in before if path != trained}
    assert selection(run) == selection(finished)


@pytest.mark.parametrize("name", ["selection.parquet", "scores.parquet", "selected.jsonl", "manifest.json",
                                  "config.yaml", "report.json"])
def test_a_damaged_result_is_written_anew(files: Files, finished: Path, copy: Callable[[], Path], name: str) -> None:
    run = copy()
    (run / name).write_bytes((run / name).read_bytes()[:100])
    siftune(*files.select, "--output-dir", run).ok()
    assert selection(run) == selection(finished)
    check_run_folder(run, pool_rows=40, selected=8)
    assert reused(run) == dict.fromkeys(STEPS, True)


def test_a_mistake_in_a_finished_run_leaves_it_finished(finished: Path, files: Files, copy: Callable[[], Path]) -> None:
    run = copy()
    siftune(*files.select, "--output-dir", run, "--budget", 1000).refused("--budget")
    assert selection(run) == selection(finished)
    assert read_json(run / "manifest.json") == json.loads((finished / "manifest.json").read_text())
