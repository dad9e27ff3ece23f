"""Jobs in other processes: their order, their errors, and processes that go."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from siftune._common.errors import DataError
from siftune._common.processes import NotElsewhere, map_in_order


def times(factor: int) -> Callable[[int], tuple[int, int]]:
    return lambda job: (job * factor, os.getpid())


def refusing(at: int) -> Callable[[int], int]:
    def task(job: int) -> int:
        print("what a library prints is no answer")
        if job >= at:
            raise DataError("no such job", where=str(job), hint="give another")
        return job

    return task


def ending(at: int) -> Callable[[int], int]:
    return lambda job: os._exit(1) if job == at else job


def unwilling(why: str) -> Callable[[int], int]:
    raise ValueError(why)


def test_results_come_in_the_order_of_the_jobs_from_several_processes() -> None:
    found = list(map_in_order(2, (times, (3,)), range(40)))
    assert [result for result, _ in found] == [3 * job for job in range(40)]
    processes = {process for _, process in found}
    assert len(processes) <= 2
    assert os.getpid() not in processes
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_the_first_error_in_the_order_of_the_jobs_is_raised_as_it_was() -> None:
    results: list[int] = []
    with pytest.raises(DataError, match="no such job") as error:
        results.extend(map_in_order(2, (refusing, (5,)), range(40)))
    assert (error.value.where, error.value.hint) == ("5", "give another")
    assert results == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("start", "why", "before"), [
    ((ending, (5,)), "a process was lost", [0, 1, 2, 3, 4]),
    ((unwilling, ("not here",)), "ValueError: not here", []),
    ((times, (lambda: None,)), "pickle", []),
])
def test_what_cannot_be_done_in_other_processes_is_told(start: Any, why: str, before: list[int]) -> None:
    results: list[int] = []
    with pytest.raises(NotElsewhere, match=f"(?i){why}"):
        results.extend(map_in_order(2, start, range(40)))
    assert results == before


def test_a_script_without_a_guard_can_use_them(tmp_path: Path) -> None:
    """Its processes would run the script again if they were spawned."""
    script = tmp_path / "script.py"
    script.write_text("from siftune._common.processes import map_in_order\nfrom operator import attrgetter\n"
                      "print(list(map_in_order(2, (attrgetter, ('real',)), [1, 2, 3])))\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.stdout == "[1, 2, 3]\n", done.stderr
