"""Jobs give the same results in one process and in several; errors come through; workers start once."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siftune._common.errors import ConfigError, DataError, SiftuneError, StoreMismatch
from siftune._common.files import atomic_path
from siftune.execution import LocalExecutor, SetAside
from siftune.execution.tries import Tries


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


class Kills:
    """A job is (name, folder, times): it kills its process so often, then it is done and says in which process."""

    def __init__(self, worker: int, *, at_start: str = "", times: int = 1):
        if at_start:
            Kills.__call__(self, (f"worker-{worker}", at_start, times))

    def __call__(self, job: tuple[str, str, int]) -> tuple[str, int]:
        name, folder, times = job
        marks = [Path(folder) / f"{name}-{i}" for i in range(times)]
        for mark in marks:
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return name, os.getpid()


class KillsAndWaits(Kills):
    """As Kills; a job also waits until two processes have been killed, so that neither worker does all of them."""

    def __call__(self, job: tuple[str, str, int]) -> tuple[str, int]:
        while len(list(Path(job[1]).iterdir())) < 2:
            time.sleep(0.05)  # the limit of the test is the limit of this
        return super().__call__(job)


def kills(folder: Path, *times: int) -> list[tuple[str, str, int]]:
    return [(str(i), str(folder), count) for i, count in enumerate(times)]


def test_a_job_whose_worker_is_killed_goes_to_another_one(tmp_path, capsys):
    found = dict(LocalExecutor(2).map(Kills, kills(tmp_path, 0, 1, 0, 1, 0, 0)))
    assert sorted(found) == ["0", "1", "2", "3", "4", "5"]
    assert os.getpid() not in found.values()
    assert len(list(tmp_path.iterdir())) == 2
    assert capsys.readouterr().err.count("(killed by SIGKILL): another one takes it over") == 2


@pytest.mark.parametrize(("tries", "times"), [(2, 2), (3, 3)])
def test_a_job_that_kills_worker_after_worker_is_set_aside_and_the_others_are_done(tries, times, tmp_path):
    results = LocalExecutor(2, tries).map(Kills, kills(tmp_path, 0, 9, 0, times - 1, 0, 9, 0))
    found = [name for name, _ in islice(results, 5)]
    with pytest.raises(SetAside) as caught:
        next(results)
    assert sorted(found) == ["0", "2", "3", "4", "6"]
    assert [name for name, _, _ in caught.value.jobs] == ["1", "5"]
    assert caught.value.reasons == ["killed by SIGKILL"] * 2
    assert len(list(tmp_path.iterdir())) == 2 * tries + times - 1, "none was tried more often"
    assert "fewer --workers" in str(caught.value.hint)


def test_workers_that_are_killed_while_they_start_are_started_again_but_not_for_ever(tmp_path):
    once = partial(KillsAndWaits, at_start=str(tmp_path), times=1)
    assert len(list(LocalExecutor(2).map(once, kills(tmp_path, 0, 0, 0)))) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"worker-0-0", "worker-1-0"}
    again = partial(Kills, at_start=str(tmp_path), times=3)
    with pytest.raises(SiftuneError, match="every worker process was lost while it started, twice"):
        list(LocalExecutor(2).map(again, kills(tmp_path, 0, 0, 0)))


def test_an_error_while_a_worker_starts_comes_through():
    with pytest.raises(DataError, match="cannot start"):
        list(LocalExecutor(2).map(Refuses, [1, 2]))


class Refuses:
    def __init__(self, worker: int):
        raise DataError(f"{worker} cannot start")


def test_a_single_job_runs_here_or_apart():
    for apart in (False, True):
        [(_, process, _)] = LocalExecutor(1, apart=apart).map(Squares, [1])
        assert (process != os.getpid()) == apart == LocalExecutor(1, apart=apart).elsewhere


class Writes:
    """Begins a file, says so, and never ends."""

    def __init__(self, worker: int):
        self.worker = worker

    def __call__(self, path: str) -> None:
        if path:
            with atomic_path(path):
                time.sleep(600)


def test_a_worker_that_is_ended_removes_what_it_has_half_written(tmp_path):
    results = LocalExecutor(2).map(Writes, [str(tmp_path / "half"), ""])
    next(results)
    while not list(tmp_path.glob(".half.*.tmp")):
        time.sleep(0.01)
    results.close()
    assert not list(tmp_path.iterdir())


@settings(max_examples=200)
@given(st.lists(st.integers(0, 4), max_size=12), st.integers(1, 4), st.randoms(use_true_random=False))
def test_every_job_is_done_or_set_aside_after_so_many_losses(losses, limit, chance):
    """``losses[i]``: how many workers job i would kill; several jobs are out at once."""
    queue, out, tried, done = Tries(list(range(len(losses))), limit), [], [0] * len(losses), []
    while len(queue) or out:
        while len(queue) and len(out) < 3:
            number, job = queue.next()
            assert number == job
            out.append(number)
        number = out.pop(chance.randrange(len(out)))
        tried[number] += 1
        if tried[number] <= losses[number]:
            queue.lost(number, "it was")
        else:
            done.append(number)
    poisoned = [i for i, count in enumerate(losses) if count >= limit]
    assert sorted([*done, *poisoned]) == list(range(len(losses)))
    assert tried == [min(count + 1, limit) for count in losses]
    if poisoned:
        with pytest.raises(SetAside) as caught:
            queue.check()
        assert caught.value.jobs == poisoned
    else:
        queue.check()


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
def test_ctrl_c_ends_busy_workers(tmp_path):
    """As a terminal sends it: to the whole group of processes."""
    parent = get_context("forkserver").Process(target=interrupted_in_two_workers, args=(str(tmp_path),))
    parent.start()
    while len(workers := [int(path.name) for path in tmp_path.iterdir()]) < 2:
        assert parent.is_alive()
        time.sleep(0.05)
    os.killpg(parent.pid, signal.SIGINT)
    parent.join()
    assert parent.exitcode == 130
    assert not any(map(alive, workers))


def interrupted_in_two_workers(folder: str) -> None:
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sleep_in_two_workers(folder)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


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
