"""Shards on this machine: in this process, or in several that each start their own task (and load their own model).

Several processes serve several GPUs, one each. On CPU, processes with a share of the threads waste less time waiting
for each other than one process with all of them, at the price of one copy of the model each. What a job computes does
not depend on which process runs it; jobs write their own results (a shard of a store), so nothing large travels back.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_context, parent_process
from typing import Any, Generic, TypeVar

from siftune._common.errors import ConfigError, SiftuneError
from siftune._common.progress import silence

Job = TypeVar("Job")
Result = TypeVar("Result")

_task: Callable[[Any], Any] | None = None  # of a worker process, made once by _start


@dataclass(frozen=True)
class LocalExecutor(Generic[Job, Result]):
    """Runs jobs in ``workers`` processes; 1 runs them here.

    Attributes:
        workers: number of processes.
    """

    workers: int = 1

    @property
    def elsewhere(self) -> bool:
        """Whether jobs leave this process, and take no model with them."""
        return self.workers > 1

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ConfigError(f"cannot work with {self.workers} workers", where="--workers", hint="give 1 or more")

    def map(self, start: Callable[[int], Callable[[Job], Result]], jobs: Iterable[Job]) -> Iterator[Result]:
        """The results of all jobs, in the order in which they finish.

        Args:
            start: called once in each worker with its number (0, 1, ...); returns the task, ``job -> result``. With
                several workers it is pickled, as are jobs and results; it must live at the top of a module.
            jobs: what the task is called with.

        Raises:
            SiftuneError: whatever a job raised, or that a worker died (of too little memory, most likely).
        """
        jobs = list(jobs)
        if self.workers == 1 or len(jobs) <= 1:
            task = start(0)
            for job in jobs:
                yield task(job)
            return
        context = _context()
        numbers = context.Queue()
        for number in range(self.workers):
            numbers.put(number)
        pool = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_start,
                                   initargs=(start, numbers, self.workers))
        try:
            for future in as_completed([pool.submit(_run, job) for job in jobs]):
                yield future.result()
        except BrokenProcessPool as error:
            raise SiftuneError("a worker process died", why="Most likely the machine ran out of memory.",
                               hint="run the same command again with fewer --workers or --batch-tokens; finished "
                                    "shards are kept") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _context() -> Any:
    """How workers come to be: forked from a process that has imported what all of them need and run nothing.

    Importing takes seconds of every worker otherwise. Children of this process itself would inherit locked threads of
    torch and tokenizers; where there is no server to fork from (Windows), each worker imports for itself.
    """
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers.models.auto.modeling_auto", "peft"])
    return context


def _start(start: Callable[[int], Callable[[Any], Any]], numbers: Any, workers: int) -> None:
    global _task
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    silence()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    _task = start(numbers.get())


def _run(job: Any) -> Any:
    assert _task is not None, "the initializer runs before any job"
    return _task(job)


def _end_with_parent() -> None:
    """A worker whose parent was killed must not go on alone: two runs would then write to one store."""
    parent = parent_process()
    assert parent is not None, "workers are started by multiprocessing"
    parent.join()
    os._exit(1)
