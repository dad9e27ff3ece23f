"""Shards on this machine: in this process, or in several that each start their own task (and load their own model).

Several processes serve several GPUs, one each. On CPU, processes with a share of the threads waste less time waiting
for each other than one process with all of them, at the price of one copy of the model each. What a job computes does
not depend on which process runs it; jobs write their own results (a shard of a store), so nothing large travels back.

Each process has a pipe of its own, so that it is known which job a process that was killed had; another one is started
in its place (see :mod:`siftune.execution.tries`). The standard library's pool gives all of its jobs up instead.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, get_all_start_methods, get_context, parent_process
from typing import Any, Generic, TypeVar

from siftune._common.errors import ConfigError, SiftuneError
from siftune._common.progress import log, silence
from siftune.execution.tries import HINT, TRIES, Tries, times

Job = TypeVar("Job")
Result = TypeVar("Result")

GRACE = 3.0
"""Seconds that a busy worker has to end by itself, removing what it has half written, before it is killed."""

_STARTED, _DONE, _RAISED, _CLOSED = range(4)


@dataclass(frozen=True)
class LocalExecutor(Generic[Job, Result]):
    """Runs jobs in ``workers`` processes; 1 runs them here.

    Attributes:
        workers: number of processes.
        tries: how many processes a job may cost before it is set aside.
        apart: run jobs in other processes even where there is one worker or one job: what may kill its process does
            not kill this one.
    """

    workers: int = 1
    tries: int = TRIES
    apart: bool = False

    @property
    def elsewhere(self) -> bool:
        """Whether jobs leave this process, and take no model with them."""
        return self.workers > 1 or self.apart

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ConfigError(f"cannot work with {self.workers} workers", where="--workers", hint="give 1 or more")

    def map(self, start: Callable[[int], Callable[[Job], Result]], jobs: Iterable[Job]) -> Iterator[Result]:
        """The results of all jobs, in the order in which they finish.

        Args:
            start: called once in each worker with its number (0, 1, ...); returns the task, ``job -> result``. With
                several workers it is pickled, as are jobs and results; it must live at the top of a module. A task
                with a ``close`` has it called once after the last job, in other processes.
            jobs: what the task is called with.

        Raises:
            SetAside: at the end, when all other jobs are done: some lost process after process.
            SiftuneError: whatever a job raised, or that no process could be started.
        """
        jobs = list(jobs)
        if not self.apart and (self.workers == 1 or len(jobs) <= 1):
            task = start(0)
            for job in jobs:
                yield task(job)
            return
        queue = Tries(jobs, self.tries)
        places = min(self.workers, len(jobs))
        context, began = _context(), [0] * places
        workers: dict[Any, _Worker] = {}

        def begin(number: int) -> None:
            with _uninterrupted():  # a process that is half started would tell of it with a traceback
                worker = _Worker(context, start, number, self.workers)
            workers[worker.pipe] = worker

        try:
            for number in range(places):
                begin(number)
            while len(queue) or any(worker.job is not None for worker in workers.values()):
                for worker in workers.values():  # those that were idle when a job came back
                    if worker.is_free and len(queue):
                        worker.give(*queue.next())
                for pipe in connection.wait(list(workers)):
                    worker = workers[pipe]
                    answer = worker.answer()
                    if answer is not None:
                        kind, value = answer
                        if kind == _RAISED:
                            raise value
                        began[worker.number] = 0
                        if len(queue):  # before whoever is told of the result takes the time
                            worker.give(*queue.next())
                        if kind == _DONE:
                            yield value
                        continue
                    del workers[pipe]
                    why = worker.ended()
                    if worker.job is not None:
                        queue.lost(worker.job, why)
                    else:
                        began[worker.number] += 1
                        log(f"warning: a worker process was lost while it started ({why})")
                    if len(queue) and began[worker.number] < self.tries:
                        begin(worker.number)
                if len(queue) and not workers:
                    raise SiftuneError(f"every worker process was lost while it started, {times(self.tries)}",
                                       where="--workers", hint=HINT)
            for worker in workers.values():
                if worker.is_started:
                    worker.close()
        finally:
            _end(list(workers.values()))
        queue.check()


class _Worker:
    """A process, seen from here."""

    def __init__(self, context: Any, start: Callable[[int], Callable[[Any], Any]], number: int, workers: int):
        self.number, self.job, self.is_started = number, None, False
        self.pipe, its = context.Pipe()
        self.process = context.Process(target=_work, args=(its, start, number, workers), name=f"siftune-{number}")
        self.process.start()
        its.close()  # or the end of the process would not be seen

    job: int | None

    @property
    def is_free(self) -> bool:
        return self.is_started and self.job is None

    def give(self, number: int, job: Any) -> None:
        self.job = number
        with suppress(BrokenPipeError, ConnectionResetError):  # it has just been lost: its end of the pipe says so
            self.pipe.send(job)

    def answer(self) -> tuple[int, Any] | None:
        """What it says; None when it is gone."""
        try:
            kind, value = pickle.loads(self.pipe.recv_bytes())
        except (EOFError, OSError):
            return None
        if kind == _STARTED:
            self.is_started = True
        else:
            self.job = None
        if kind == _RAISED:
            value, trace = value
            if not isinstance(value, SiftuneError):  # a bug: where it was raised is in that process
                value.__cause__ = RuntimeError(f"in a worker process:\n{trace}")
        return kind, value

    def close(self) -> None:
        """Have it close its task and end.

        Raises:
            Exception: whatever closing raised.
        """
        with suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send(None)
        answer = self.answer()
        if answer is None:
            log(f"warning: a worker process was lost at its end ({self.ended()})")
        elif answer[0] == _RAISED:
            raise answer[1]

    def ended(self) -> str:
        """How its process ended, once it has."""
        self.pipe.close()
        self.process.join()
        code = self.process.exitcode or 0
        if code >= 0:
            return f"it ended with {code}"
        with suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
        return f"killed by signal {-code}"


def _end(workers: list[_Worker]) -> None:
    """End all that still run: idle ones by themselves, busy ones when they are asked to, the others are killed."""
    for worker in workers:
        worker.pipe.close()
        if worker.job is not None or not worker.is_started:
            worker.process.terminate()
    until = time.monotonic() + GRACE
    for worker in workers:
        worker.process.join(max(0.0, until - time.monotonic()))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits for the end of what is inside; only the main thread has it to hold back."""
    if threading.current_thread() is not threading.main_thread() or not callable(signal.getsignal(signal.SIGINT)):
        yield
        return
    came: list[Any] = []
    before = signal.signal(signal.SIGINT, lambda *about: came.append(about))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            before(*came[0])  # type: ignore[operator]


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


def _work(pipe: Any, start: Callable[[int], Callable[[Any], Any]], number: int, workers: int) -> None:
    """What a process does: start the task, then job after job until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the process that shows it decides
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    silence()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    try:
        task = start(number)
        _say(pipe, _STARTED, None)
        while (job := pipe.recv()) is not None:
            _say(pipe, _DONE, task(job))
        getattr(task, "close", lambda: None)()
        _say(pipe, _CLOSED, None)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # nobody waits for it any more
    except Exception as error:
        trace = "".join(traceback.format_exception(error))
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # an error that does not survive pickling comes as text
            error = RuntimeError(f"{type(error).__name__}: {error}")
        with suppress(OSError):
            _say(pipe, _RAISED, (error, trace))


def _say(pipe: Any, kind: int, value: Any) -> None:
    pipe.send_bytes(pickle.dumps((kind, value)))


def _stop(*_: Any) -> None:
    """Leave by an exception, so that what was half written is removed."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Raised inside a finaliser, it is swallowed: nothing is printed, and the closed pipe ends it after the job.
    sys.unraisablehook = lambda _: None
    raise SystemExit(1)


def _end_with_parent() -> None:
    """A worker whose parent was killed must not go on alone: two runs would then write to one store."""
    parent = parent_process()
    assert parent is not None, "workers are started by multiprocessing"
    parent.join()
    os._exit(1)
