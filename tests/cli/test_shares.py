"""`select --shard I/N`: shares in any order, at once, killed or forgotten give the selection of one command."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siftune._common.errors import ConfigError
from siftune.features.shares import Share
from siftune.features.store import FeatureStore, Shard
from tests.cli.command import Result, siftune, start
from tests.cli.runs import temporary_files


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shards that this process writes, as ``rds/pool/base 3``."""
    found: list[str] = []
    real = FeatureStore.write

    def write(self: FeatureStore, shard: Shard, arrays: Any) -> None:
        found.append(f"{'/'.join(self.folder.parts[-3:])} {shard.index}")
        real(self, shard, arrays)

    monkeypatch.setattr(FeatureStore, "write", write)
    return found


@pytest.fixture
def shared(files: Any, tmp_path: Path) -> Callable[..., Callable[[str], Result]]:
    """Of a method: the command of a share, or the one without where none is named."""
    def of(method: str, *more: object) -> Callable[[str], Result]:
        def run(shard: str = "") -> Result:
            share = ("--shard", shard) if shard else ()
            return siftune(*files.select, "--method", method, *more, "--output-dir", tmp_path / "run", *share)

        return run

    return of


def chosen(run: Path) -> bytes:
    return (run / "selected.jsonl").read_bytes()


@pytest.mark.parametrize(("method", "rounds", "more"), [
    ("rds+", 1, ()), ("less", 1, ()), ("nait", 1, ()), ("loss-drop", 3, ()), ("embed", 1, ()),
    ("two-stage", 1, ("--set", "first=bm25", "--set", "keep=2")), ("delift", 2, ("--set", "pairs=sparse")),
])
def test_shares_one_after_the_other_leave_nothing_to_compute(method, rounds, more, files, shared, written, tmp_path):
    siftune(*files.select, "--method", method, *more, "--output-dir", tmp_path / "plain").ok()
    alone, run = sorted(written), shared(method, *more)
    written.clear()
    for _ in range(rounds):  # loss-drop: a pass before its trainings, and one after each
        run("0/3").ok()
        for share in ("2/3", "3/3", "1/3"):
            before = len(written)
            told, computed = run(share).ok(), len(written) - before
            assert f"share {share}: {computed} shard{'' if computed == 1 else 's'} computed" in told.out
    assert not (tmp_path / "run" / "selected.jsonl").exists(), "a share selects nothing"
    pool = [name for name in alone if "/pool/" in name or "utility" in name]
    assert [name for name in pool if name not in written] == [], "shares have done all passes over the pool"
    before = list(written)
    run().ok()
    assert [name for name in written[len(before):] if name in pool] == [], "and it computes none of them"
    assert sorted(written) == alone, "nothing was computed twice"
    assert chosen(tmp_path / "run") == chosen(tmp_path / "plain")
    assert not temporary_files(tmp_path / "run")
    assert not list((tmp_path / "run").glob(".siftune.lock*"))


def test_what_comes_before_the_shares_is_refused_to_them(shared, written):
    run = shared("less")
    run("1/2").refused("the training run warmup comes before the shares", "--shard 0/2")
    assert "what comes before the shares is done" in run("0/2").ok().out
    assert written == []
    run("1/2").ok()


def test_what_shares_have_left_is_told_and_computed_by_the_last_command(files, shared, written, tmp_path):
    run = shared("rds+")
    told = run("1/4").ok()
    assert "share 1/4: 2 shards computed; of pool forward pass 3 shards are missing" in told.out
    assert "5 of 5 shards are missing, 2 of them of share 1/4" not in told.err, "all of them is nothing to tell"
    assert "share 3/4: 1 shard computed; of pool forward pass 2 shards are missing" in run("3/4").ok().out
    before = len(written)
    told = run().ok()
    assert "pool forward pass: 2 of 5 shards are missing" in told.err
    assert [name for name in written[before:] if "pool" in name] == ["rds/pool/base 1", "rds/pool/base 3"]
    siftune(*files.select, "--method", "rds+", "--output-dir", tmp_path / "plain").ok()
    assert chosen(tmp_path / "run") == chosen(tmp_path / "plain")


def test_shares_at_once_and_one_that_is_killed(files, shared, tmp_path):
    run, folder = shared("rds+"), tmp_path / "run"
    command = (*files.select, "--method", "rds+", "--shard-rows", 2, "--output-dir", folder, "--shard")
    started = [start(*command, share) for share in ("1/3", "2/3")]
    store = folder / "store" / "rds" / "pool" / "base"
    while not list(store.glob("shard-*.json")):
        assert started[0].poll() is None or started[1].poll() is None
        time.sleep(0.01)
    os.kill(started[0].pid, signal.SIGKILL)
    ended = [one.communicate() for one in started]
    assert started[1].poll() == 0, ended[1]
    assert {int(path.stem[-5:]) % 3 for path in store.glob("shard-*.json")} <= {0, 1}
    assert sum(int(path.stem[-5:]) % 3 == 1 for path in store.glob("shard-*.json")) == 7
    for share in ("1/3", "3/3"):
        told = siftune(*command, share).ok().out
    assert "next: target forward pass, which cannot be shared" in told
    siftune(*command, "0/3").ok()
    assert "next: the same command without --shard selects" in siftune(*command, "2/3").ok().out
    assert len(list(store.glob("shard-*.json"))) == 20
    run().ok()
    siftune(*files.select, "--method", "rds+", "--output-dir", tmp_path / "plain").ok()
    assert chosen(folder) == chosen(tmp_path / "plain")
    assert not temporary_files(folder)
    assert not list(folder.glob(".siftune.lock*"))


def test_what_does_not_go_with_a_share_is_refused(shared, tmp_path):
    run = shared("rds+")
    run("9/8").refused("'9/8' is no share", "1/8 to 8/8")
    run("two").refused("no share")
    shared("rds+", "--recompute")("1/8").refused("--recompute")
    shared("rds+", "--executor", "ray", "--storage", f"file://{tmp_path}/x")("1/8").refused("--storage", "all machines")
    shared("rds+", "--choose")("1/8").refused("--choose")
    assert not (tmp_path / "run" / "store").exists()


def test_a_program_reads_what_a_share_has_left(shared):
    told = json.loads(shared("rds+", "--json")("1/2").ok().out)
    assert (told["share"], told["computed"], told["left"], told["step"]) == ("1/2", 3, 2, "pool forward pass")


@given(st.integers(0, 60), st.integers(1, 9))
def test_every_shard_is_of_exactly_one_share(shards: int, count: int) -> None:
    every = [Shard(i, i, i + 1) for i in range(shards)]
    parts = [Share(number, count).own(every) for number in range(1, count + 1)]
    assert sorted(shard.index for part in parts for shard in part) == list(range(shards))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("text", ["", "3", "1/0", "-1/2", "3/2", "1/2/3", "1.5/2", "a/b"])
def test_only_shares_are_read(text: str) -> None:
    with pytest.raises(ConfigError):
        Share.parse(text)


@pytest.mark.parametrize("method", ["rds+", "less"])
def test_shares_of_a_pool_that_has_grown_take_what_the_run_before_has_of_it(method, files, shared, written, tmp_path):
    lines = files.pool.read_text(encoding="utf-8").splitlines()
    (tmp_path / "before.jsonl").write_text("\n".join(lines[5:]) + "\n", encoding="utf-8")
    before = replace(files, pool=tmp_path / "before.jsonl")
    siftune(*before.select, "--method", method, "--output-dir", tmp_path / "before").ok()
    siftune(*files.select, "--method", method, "--from", tmp_path / "before", "--output-dir", tmp_path / "plain").ok()
    run = shared(method, "--from", tmp_path / "before")
    assert "35 of 40 rows" in run("0/2").ok().err
    written.clear()
    for share in ("2/2", "1/2"):
        run(share).ok()
    run().ok()
    assert not [name for name in written if "/pool/" in name], "share 0 has computed the few that are new"
    assert chosen(tmp_path / "run") == chosen(tmp_path / "plain")
