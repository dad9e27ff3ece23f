"""The same function for many jobs in other processes, with the results in the order of the jobs.

The processes are started anew from the interpreter rather than forked or spawned by :mod:`multiprocessing`: they need
nothing of the program's main module, which may be a notebook or a script without a guard, and inherit no locked threads
of torch or tokenizers. What goes to them and comes back is pickled through a pipe between processes of one user.
Passes over a model have :mod:`siftune.execution` instead, which places them on devices and starts lost ones again.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

_SERVE = ("import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
          "from siftune._common.processes import serve; serve()")


# One thread each, and nothing said about packages: the process that asks has said it.
_QUIETLY = {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}


class NotElsewhere(Exception):  # noqa: N818 - it names a state, which the caller decides about
    """The work cannot be done in other processes, or not any more; the text says why."""


def cores() -> int:
    """Processor cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def map_in_order(count: int, start: tuple[Callable[..., Callable[[Any], Any]], tuple[Any, ...]],
                 jobs: Iterable[Any]) -> Iterator[Any]:
    """The results of all jobs, in their order; at most a few jobs for each process are under way.

    Args:
        count: how many processes.
        start: a function at the top of a module and its arguments; called once in each process, it returns what is
            called with each job.
        jobs: what can be pickled.

    Raises:
        NotElsewhere: function or arguments cannot be pickled, or a process cannot be started or was lost. All results
            before are those of the first jobs.
        Exception: whatever the first job raised that raised something.
    """
    try:
        begun = pickle.dumps(start)
    except Exception as error:  # whatever an object says that does not want to travel
        raise NotElsewhere(f"{type(error).__name__}: {error}") from error
    processes = [_Process() for _ in range(count)]
    idle: SimpleQueue[_Process] = SimpleQueue()
    for process in processes:
        idle.put(process)
    waiting: deque[Future[Any]] = deque()

    def ask(job: Any) -> Any:
        process = idle.get()
        try:
            return process.ask(begun, job)
        finally:
            idle.put(process)

    threads = ThreadPoolExecutor(count, thread_name_prefix="siftune-processes")
    try:
        for job in jobs:
            waiting.append(threads.submit(ask, job))
            if len(waiting) > 3 * count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        for process in processes:
            process.end()
        threads.shutdown()


class _Process:
    """A process, started with its first job."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = False

    def ask(self, begun: bytes, job: Any) -> Any:
        try:
            process = self._process or self._start(begun)
            pickle.dump(job, process.stdin)  # type: ignore[arg-type]
            process.stdin.flush()  # type: ignore[union-attr]
            is_result, value = pickle.load(process.stdout)  # type: ignore[arg-type]
        except (OSError, EOFError, pickle.PickleError, ValueError) as error:
            raise NotElsewhere(f"a process was lost ({type(error).__name__})") from error
        if is_result:
            return value
        raise value

    def _start(self, begun: bytes) -> subprocess.Popen[bytes]:
        if self._ended or not sys.executable:
            raise NotElsewhere("there is no interpreter to start")
        made = self._process = subprocess.Popen([sys.executable, "-c", _SERVE], stdin=subprocess.PIPE,
                                                stdout=subprocess.PIPE,
                                                env={**os.environ, **_QUIETLY})
        pickle.dump(sys.path, made.stdin)  # type: ignore[arg-type]
        made.stdin.write(begun)  # type: ignore[union-attr]
        made.stdin.flush()  # type: ignore[union-attr]
        has_begun, why = pickle.load(made.stdout)  # type: ignore[arg-type]
        if not has_begun:
            raise NotElsewhere(f"{type(why).__name__}: {why}")
        return made

    def end(self) -> None:
        self._ended, process = True, self._process
        if process is not None:
            process.kill()  # what it had to say has been heard; it writes no files
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]


def serve() -> None:
    """What a process does: begin, then job after job until the pipe ends, as it does with the process that asked."""
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: who asked decides
    asked, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    from siftune._common.progress import silence

    silence()

    def say(make: Callable[[], Any]) -> bool:
        try:
            answer = pickle.dumps((True, make()))
        except Exception as error:
            try:
                answer = pickle.dumps((False, error))
                pickle.loads(answer)
            except Exception:  # an error that does not survive pickling comes as text
                answer = pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))
            answers.write(answer)
            answers.flush()
            return False
        answers.write(answer)
        answers.flush()
        return True

    task: list[Callable[[Any], Any]] = []

    def begin() -> None:
        function, arguments = pickle.load(asked)
        task.append(function(*arguments))

    try:
        if not say(begin):
            return
        while True:
            job = pickle.load(asked)
            say(lambda job=job: task[0](job))
    except (EOFError, BrokenPipeError):
        return
