"""One writer at a time: a living owner is named, a dead one's lock is taken over, nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from siftune._common.artefacts.lock import LOCK, working_beside, working_in
from siftune._common.errors import SiftuneError

fork = get_context("fork")


def _hold(folders: list[Path], ready: Any, go: Any, command: str) -> None:
    with working_in(*folders, command=command):
        ready.set()
        go.wait(30)


def held(folders: list[Path], command: str = "siftune select --seed 1") -> tuple[Any, Any]:
    """(process that holds the folders, the event that lets it go)."""
    ready, go = fork.Event(), fork.Event()
    process = fork.Process(target=_hold, args=(folders, ready, go, command))
    process.start()
    assert ready.wait(30)
    return process, go


def test_another_process_is_refused_with_the_owners_name_until_it_has_ended(tmp_path: Path) -> None:
    process, go = held([tmp_path / "run"])
    with pytest.raises(SiftuneError) as caught, working_in(tmp_path / "run"):
        pass
    told = str(caught.value)
    assert f"`siftune select --seed 1` (process {process.pid} on {socket.gethostname()}, since 20" in told
    assert "hint: wait until it has ended, or choose another --output-dir" in told
    go.set()
    process.join(30)
    with working_in(tmp_path / "run", command="mine"):
        assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == os.getpid()
    assert list((tmp_path / "run").iterdir()) == []


def test_a_killed_owners_lock_is_taken_over_and_its_temporary_files_are_swept(tmp_path: Path) -> None:
    process, _ = held([tmp_path])
    (tmp_path / "store").mkdir()
    left = [tmp_path / ".m.json.a1b2.tmp", tmp_path / "store" / ".shard-00000.json.x.tmp", tmp_path / ".writable"]
    kept = [tmp_path / "store" / "shard-00000.json", tmp_path / "mine.tmp", tmp_path / ".profile"]
    for path in (*left, *kept):
        path.write_text("half")
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    assert (tmp_path / LOCK).exists(), "nobody was there to remove it"
    with working_in(tmp_path):
        assert not any(path.exists() for path in left)
        assert all(path.exists() for path in kept)
    assert not (tmp_path / LOCK).exists()


def test_the_lock_of_another_machine_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text(json.dumps({"command": "siftune study", "pid": 7, "host": "elsewhere.invalid"}))
    with pytest.raises(SiftuneError) as caught, working_in(tmp_path):
        pass
    assert f"remove {tmp_path / LOCK}" in str(caught.value)
    assert "process 7 on elsewhere.invalid" in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"host": 3}', "[" * 10_000])
def test_a_spoilt_lock_file_without_an_owner_keeps_nobody_out(tmp_path: Path, content: str) -> None:
    (tmp_path / LOCK).write_text(content)
    if "host" in content:
        with pytest.raises(SiftuneError, match="another command"), working_in(tmp_path):
            pass
        return
    with working_in(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_a_folder_that_is_held_may_be_held_once_more_inside(tmp_path: Path) -> None:
    with working_in(tmp_path / "a"):
        with working_in(tmp_path / "a", tmp_path / "b"):
            assert (tmp_path / "b" / LOCK).exists()
        assert not (tmp_path / "b" / LOCK).exists()
        assert (tmp_path / "a" / LOCK).exists()
    with working_in(tmp_path / "a" / ".." / "a"):
        pass


def test_two_folders_in_either_order_never_wait_for_each_other(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    process, go = held([b])
    since = time.monotonic()
    for folders in ((a, b), (b, a)):
        with pytest.raises(SiftuneError, match="another command"), working_in(*folders):
            pass
        assert not (a / LOCK).exists(), "what was taken first is given back"
    assert time.monotonic() - since < 5
    go.set()
    process.join(30)
    with working_in(b, a):
        pass


def test_an_error_inside_gives_the_folder_back(tmp_path: Path) -> None:
    with pytest.raises(KeyError), working_in(tmp_path):
        raise KeyError
    with working_in(tmp_path):
        pass


def test_of_many_who_come_at_once_one_at_a_time_is_inside(tmp_path: Path) -> None:
    def visit(log: Path, number: int) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                with working_in(tmp_path / "run", command=str(number)), log.open("a") as out:
                    out.write(f"in {number}\n")
                    out.flush()
                    time.sleep(0.005)
                    out.write(f"out {number}\n")
                return
            except SiftuneError:
                time.sleep(0.002)

    log = tmp_path / "log"
    processes = [fork.Process(target=visit, args=(log, i)) for i in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    lines = log.read_text().split("\n")[:-1]
    assert len(lines) == 16
    for entered, left in zip(lines[::2], lines[1::2], strict=True):
        assert entered.split() == ["in", left.split()[1]]


def _hold_beside(folder: Path, name: str, ready: Any, go: Any) -> None:
    with working_beside(folder, name, f"siftune select --shard {name}"):
        ready.set()
        go.wait(30)


def held_beside(folder: Path, name: str) -> tuple[Any, Any]:
    ready, go = fork.Event(), fork.Event()
    process = fork.Process(target=_hold_beside, args=(folder, name, ready, go))
    process.start()
    assert ready.wait(30)
    return process, go


def test_commands_beside_each_other_keep_out_one_that_needs_the_folder_alone(tmp_path: Path) -> None:
    left = tmp_path / ".shard-00000.json.x.tmp"
    left.write_text("half, of another that is at work")
    process, go = held_beside(tmp_path, "share-1")
    with working_beside(tmp_path, "share-2"):
        with pytest.raises(SiftuneError, match="another command") as caught, working_beside(tmp_path, "share-1"):
            pass
        assert f"`siftune select --shard share-1` (process {process.pid} on " in str(caught.value)
        assert left.exists()
    with pytest.raises(SiftuneError, match="another command") as caught, working_in(tmp_path):
        pass
    assert f"process {process.pid} on " in str(caught.value)
    assert not (tmp_path / LOCK).exists(), "what was taken first is given back"
    assert left.exists()
    go.set()
    process.join(30)
    with working_in(tmp_path):
        with pytest.raises(SiftuneError, match="another command"), working_beside(tmp_path, "share-1"):
            pass
        assert not left.exists()
    assert list(tmp_path.iterdir()) == []


def test_one_that_works_alone_keeps_those_beside_each_other_out(tmp_path: Path) -> None:
    process, go = held([tmp_path])
    with pytest.raises(SiftuneError, match="another command") as caught, working_beside(tmp_path, "share-1"):
        pass
    assert f"process {process.pid} on " in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    go.set()
    process.join(30)
    with working_beside(tmp_path, "share-1"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_of_those_that_were_killed_nothing_keeps_others_out(tmp_path: Path) -> None:
    process, _ = held_beside(tmp_path, "share-1")
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    assert [path.name for path in tmp_path.iterdir()] == [f"{LOCK}.share-1"]
    with working_beside(tmp_path, "share-1"):
        pass
    process, _ = held_beside(tmp_path, "share-1")
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    with working_in(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    process, _ = held([tmp_path])
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    with working_beside(tmp_path, "share-1"):
        pass


def test_of_another_machine_the_same_is_taken_over_and_any_other_is_named(tmp_path: Path) -> None:
    path = tmp_path / f"{LOCK}.share-1"
    path.write_text(json.dumps({"command": "siftune select", "pid": 7, "host": "elsewhere.invalid"}))
    with pytest.raises(SiftuneError) as caught, working_in(tmp_path):
        pass
    assert f"remove {path}" in str(caught.value)
    with working_beside(tmp_path, "share-2"):
        pass
    with working_beside(tmp_path, "share-1"):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []
