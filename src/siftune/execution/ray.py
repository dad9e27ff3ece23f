"""Shards on the machines of a Ray cluster, or on this one: an actor a worker, which starts its task once.

An actor keeps its model between jobs, which a Ray task would load anew. Jobs write their own results, so what the
actors share with this process is a folder that all of them see, not Ray's object store. Only the cluster that was
started here is shut down again.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from siftune._common.errors import ConfigError, SiftuneError, first_line
from siftune._common.progress import log, silence

Job = TypeVar("Job")
Result = TypeVar("Result")

HINT = "set RAY_ADDRESS to a cluster that is running, or leave it unset to start one on this machine"


@dataclass(frozen=True)
class RayExecutor(Generic[Job, Result]):
    """Runs jobs in ``workers`` actors: of the cluster that ``RAY_ADDRESS`` names, else of one started here.

    Attributes:
        workers: number of actors.
        device: of the jobs. On CUDA each actor has a GPU of its own (``num_gpus=1``), else as many CPUs as all of them
            can have (``num_cpus``).
        folder: that every machine must see under the same name; none is looked for when empty.
    """

    workers: int = 1
    device: str = "cpu"
    folder: str = ""

    @property
    def elsewhere(self) -> bool:
        """Whether jobs leave this process, and take no model with them: always."""
        return True

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ConfigError(f"cannot work with {self.workers} workers", where="--workers", hint="give 1 or more")
        if self.device.startswith("cuda:"):
            raise ConfigError(f"Ray gives out the GPUs, so {self.device} cannot be asked for", where="--device",
                              hint="give --device cuda")

    def map(self, start: Callable[[int], Callable[[Job], Result]], jobs: Iterable[Job]) -> Iterator[Result]:
        """The results of all jobs, in the order in which they finish.

        Args:
            start: called once in each actor with its number (0, 1, ...); returns the task, ``job -> result``. It is
                pickled, as are jobs and results, and its module must be there on every machine. A task with a
                ``close`` has it called once after the last job.
            jobs: what the task is called with.

        Raises:
            SiftuneError: whatever a job raised, that a worker died, or that Ray is missing or cannot be reached.
        """
        queue = deque(jobs)
        if not queue:
            return
        workers = min(self.workers, len(queue))
        ray = _ray()
        with _connected(ray, workers), _seen_by_all(self.folder) as sign:
            resources, threads = _resources(ray, self.device, workers)
            actor = ray.remote(max_restarts=0, max_task_retries=0, **resources)(_Worker)
            shared = ray.put(start)
            actors = [actor.remote() for _ in range(workers)]
            # Started by a call of its own: an actor whose __init__ fails could not tell why.
            waiting = {a.begin.remote(shared, i, threads, str(Path.cwd()), sign): (a, False)
                       for i, a in enumerate(actors)}
            try:
                while waiting:
                    [ready], _ = ray.wait(list(waiting), num_returns=1)
                    free, was_job = waiting.pop(ready)
                    result = _get(ray, ready)
                    if queue:
                        waiting[free.run.remote(queue.popleft())] = (free, True)
                    if was_job:
                        yield result
                for a in actors:
                    _get(ray, a.close.remote())
            finally:
                for a in actors:
                    ray.kill(a)


class _Worker:
    """What an actor is. A mistake of the user's comes back as a value, since Ray would wrap it into a traceback."""

    def __init__(self) -> None:
        self._task: Any = None

    def begin(self, start: Callable[[int], Callable[[Any], Any]], number: int, threads: int, folder: str,
              sign: str) -> tuple[Any, SiftuneError | None]:
        # Read when torch is imported, which takes seconds: a task that computes nothing with it does without.
        os.environ["OMP_NUM_THREADS"] = str(threads)
        silence()
        for path in (folder, sign):
            if path and not Path(path).exists():
                return None, ConfigError(f"a worker on {socket.gethostname()} does not see {Path(path).parent}",
                                         where="--executor ray", why="Workers write their results into the run folder.",
                                         hint="give an --output-dir on storage that all machines share")
        os.chdir(folder)  # paths may be relative to where the command was typed
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)

        def begin() -> None:
            self._task = start(number)

        return _told(begin)

    def run(self, job: Any) -> tuple[Any, SiftuneError | None]:
        return _told(lambda: self._task(job))

    def close(self) -> tuple[Any, SiftuneError | None]:
        return _told(getattr(self._task, "close", lambda: None))


def _told(call: Callable[[], Any]) -> tuple[Any, SiftuneError | None]:
    try:
        return call(), None
    except SiftuneError as error:
        return None, error


def _get(ray: Any, ready: Any) -> Any:
    try:
        result, error = ray.get(ready)
    except ray.exceptions.RayTaskError as raised:  # not the user's mistake: as it was
        raise raised.cause from raised
    except ray.exceptions.RayError as died:
        raise SiftuneError("a worker died", where="--executor ray", why=f"Ray says: {first_line(died)}",
                           hint="most likely its machine ran out of memory or was lost: run the same command again, "
                                "with fewer --workers or --batch-tokens; what is finished is kept") from died
    if error is not None:
        raise error
    return result


def _ray() -> Any:
    # Ray sends figures on its use to its makers unless told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # An actor that asked for no GPU sees none, so that its device is that of this process.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise ConfigError("Ray is not installed", where="--executor ray", why=first_line(error),
                          hint='pip install "siftune[ray]", or leave --executor local') from error
    return ray


@contextmanager
def _connected(ray: Any, workers: int) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    if os.environ.get("RAY_ADDRESS"):
        where: dict[str, Any] = {"address": "auto"}
    else:  # "local": or it would join whatever runs on this machine
        where = {"address": "local", "num_cpus": max(os.cpu_count() or 1, workers)}
    try:
        ray.init(**where, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ConfigError("cannot connect to Ray", where=os.environ.get("RAY_ADDRESS", "--executor ray"),
                          why=first_line(error), hint=HINT) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _seen_by_all(folder: str) -> Iterator[str]:
    """A file with a new name, for workers to look for: a folder of that name may be there on any machine."""
    if not folder:
        yield ""
        return
    from siftune._common.files import make_folder

    sign = make_folder(folder).absolute() / f".seen-{secrets.token_hex(8)}"
    sign.touch()
    try:
        yield str(sign)
    finally:
        sign.unlink(missing_ok=True)


def _resources(ray: Any, device: str, workers: int) -> tuple[dict[str, float], int]:
    """(what an actor asks for, threads that it may use)."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpu = device == "cuda"
    kind = "GPU" if gpu else "CPU"
    share = share_of([int(node.get(kind, 0)) for node in nodes], workers)
    if share < 1:
        there = sum(int(node.get(kind, 0)) for node in nodes)
        raise ConfigError(f"the Ray cluster has {there} {kind}s, too few for {workers} workers", where="--workers",
                          hint=f"give --workers {there}" if there else "give --device cpu")
    log(f"Ray: {workers} workers on {len(nodes)} machine{'s' if len(nodes) > 1 else ''}")
    if gpu:
        return {"num_gpus": 1}, max(1, (os.cpu_count() or 1) // workers)
    return {"num_cpus": share}, share


def share_of(machines: Sequence[int], workers: int) -> int:
    """The most CPUs that each of so many workers can have where none may be spread over two machines; 0 where there
    are too few of them.

    Args:
        machines: CPUs of each machine.
        workers: how many must find room.
    """
    return next((share for share in range(max(machines, default=0), 0, -1)
                 if sum(cpus // share for cpus in machines) >= workers), 0)
