"""Jobs give the same results in one process and in several; errors come through; workers start once."""

from __future__ import annotations

import os
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

from siftune._common.errors import ConfigError, DataError, SiftuneError, StoreMismatch
from siftune.execution import LocalExecutor


class Squares:
    def __init__(self, worker: int):
        self.worker, self.calls = worker, 0

    def __call__(self, job: int) -> tuple[int, int, int]:
        if job == 13:
            raise DataError("job 13 cannot be done", where="here:13", hint="leave it out")
        if job == 99:
            os._exit(1)
        self.calls += 1
        return job * job, os.getpid(), self.calls


def test_one_worker_runs_here_in_order():
    found = list(LocalExecutor(1).map(Squares, range(5)))
    assert [square for square, _, _ in found] == [0, 1, 4, 9, 16]
    assert {pid for _, pid, _ in found} == {os.getpid()}
    assert [calls for _, _, calls in found] == [1, 2, 3, 4, 5], "the task was started once"


def test_several_workers_do_every_job_once_elsewhere():
    found = list(LocalExecutor(2).map(Squares, range(8)))
    assert sorted(square for square, _, _ in found) == [i * i for i in range(8)]
    assert os.getpid() not in {pid for _, pid, _ in found}


def test_an_error_of_a_job_comes_through_whole():
    for workers in (1, 2):
        with pytest.raises(DataError) as caught:
            list(LocalExecutor(workers).map(Squares, [1, 13, 2]))
        assert "hint: leave it out" in str(caught.value)
        assert caught.value.where == "here:13"


def test_a_worker_that_dies_is_reported():
    with pytest.raises(SiftuneError, match="a worker process died"):
        list(LocalExecutor(2).map(Squares, [1, 99, 2]))


class Sleeps:
    """Writes down which process it is, and never ends."""

    def __init__(self, worker: int):
        self.worker = worker

    def __call__(self, folder: str) -> None:
        (Path(folder) / str(os.getpid())).touch()
        time.sleep(600)


def sleep_in_two_workers(folder: str) -> None:
    list(LocalExecutor(2).map(Sleeps, [folder] * 2))


def alive(process: int) -> bool:
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_workers_end_when_their_parent_is_killed(tmp_path):
    parent = get_context("forkserver").Process(target=sleep_in_two_workers, args=(str(tmp_path),))
    parent.start()
    while len(workers := [int(path.name) for path in tmp_path.iterdir()]) < 2:
        assert parent.is_alive()
        time.sleep(0.05)
    parent.kill()
    parent.join()
    while any(map(alive, workers)):
        time.sleep(0.05)  # the limit of the test is the limit of this


def test_errors_survive_pickling():
    import pickle

    error = pickle.loads(pickle.dumps(StoreMismatch("other", field="model", where="w", why="y", hint="h")))
    assert (error.field, str(error)) == ("model", "other\n  --> w\n  y\nhint: h")


def test_no_workers_is_refused():
    with pytest.raises(ConfigError, match="0 workers"):
        LocalExecutor(0)
