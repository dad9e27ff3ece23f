"""Shards on the machines of a Ray cluster, or on this one: an actor a worker, which starts its task once.

An actor keeps its model between jobs, which a Ray task would load anew. Jobs write their own results, into a folder
that all machines see or through a storage (:mod:`siftune.execution.storage`), not into Ray's object store. Only the
cluster that was started here is shut down again. Actors that are lost, alone or with their machine, are replaced
(:mod:`siftune.execution.tries`); Ray itself would start them anew without their task.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from siftune._common.errors import ConfigError, SiftuneError, first_line
from siftune._common.progress import log, silence
from siftune.execution.tries import HINT, TRIES, Tries, times

Job = TypeVar("Job")
Result = TypeVar("Result")

HINT_ADDRESS = "set RAY_ADDRESS to a cluster that is running, or leave it unset to start one on this machine"

START_SECONDS = 180.0
"""How long a cluster and its actors may take to come to be, where nothing else is said."""

_LOOK = 5.0  # seconds after which it is looked whether there is still a cluster


@dataclass(frozen=True)
class RayExecutor(Generic[Job, Result]):
    """Runs jobs in ``workers`` actors: of the cluster that ``RAY_ADDRESS`` names, else of one started here.

    Attributes:
        workers: number of actors.
        device: of the jobs. On CUDA each actor has a GPU of its own (``num_gpus=1``), else as many CPUs as all of them
            can have (``num_cpus``).
        folder: that every machine must see under the same name; none is looked for when empty.
        tries: how many actors a job may cost before it is set aside.
        start_seconds: that a cluster started here, and then its actors, may take to come to be.
        shared: whether the machines must see ``folder`` and the folder in which the command was typed. Otherwise actors
            stay where Ray starts them, and jobs are to name no file of this machine.
    """

    workers: int = 1
    device: str = "cpu"
    folder: str = ""
    tries: int = TRIES
    start_seconds: float = START_SECONDS
    shared: bool = True

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
            SetAside: at the end, when all other jobs are done: some lost actor after actor.
            SiftuneError: whatever a job raised, that no actor could be started, or that Ray is missing or cannot be
                reached.
        """
        jobs = list(jobs)
        if not jobs:
            return
        workers = min(self.workers, len(jobs))
        ray = _ray()
        with _connected(ray, workers, self.start_seconds), _seen_by_all(self.folder if self.shared else "") as sign:
            yield from _Actors(self, ray, start, workers, sign).results(Tries(jobs, self.tries))


@dataclass(frozen=True)
class _Awaited:
    """What an actor was asked for: to be there, to begin, or a job, of that number."""

    place: int
    what: Literal["be there", "begin", "job"]
    job: int = -1
    since: float = field(default_factory=time.monotonic)


class _Actors:
    """The actors of a run, by their places 0, 1, ...: a lost one is replaced, see :mod:`siftune.execution.tries`."""

    def __init__(self, executor: RayExecutor[Any, Any], ray: Any, start: Callable[[int], Callable[[Any], Any]],
                 workers: int, sign: str):
        self.executor, self.ray, self.sign, self.workers = executor, ray, sign, workers
        resources, self.threads = _resources(ray, executor.device, workers)
        self.kind = ray.remote(max_restarts=0, max_task_retries=0, **resources)(_Worker)
        self.start = ray.put(start)
        self.actors: dict[int, Any] = {}
        self.idle: list[int] = []
        self.awaited: dict[Any, _Awaited] = {}
        self.losses = [0] * workers  # of actors that were lost before they began, one after the other

    def results(self, queue: Tries[Any]) -> Iterator[Any]:
        try:
            for place in range(self.workers):
                self._launch(place)
            while len(queue) or any(one.what == "job" for one in self.awaited.values()):
                self._give(queue)
                if not self.awaited:
                    raise SiftuneError(f"every actor was lost while it started, {times(self.executor.tries)}",
                                       where="--executor ray", hint=HINT)
                ready, _ = self.ray.wait(list(self.awaited), num_returns=1, timeout=_LOOK)
                if not ready:
                    self._check()
                for reference in ready:
                    one = self.awaited.pop(reference)
                    try:
                        result = _get(self.ray, reference)
                    except _Lost as lost:
                        self._replace(one, str(lost), queue)
                        continue
                    if one.what == "be there":
                        here = str(Path.cwd()) if self.executor.shared else ""
                        begun = self.actors[one.place].begin.remote(self.start, one.place, self.threads, here,
                                                                    self.sign)
                        self._await(begun, _Awaited(one.place, "begin"))
                        continue
                    self.losses[one.place] = 0
                    self.idle.append(one.place)
                    self._give(queue)  # before whoever is told of the result takes the time
                    if one.what == "job":
                        yield result
            for place in self.idle:
                try:
                    _get(self.ray, self.actors[place].close.remote())
                except _Lost as lost:
                    log(f"warning: an actor was lost at its end ({lost})")
        finally:
            for actor in self.actors.values():
                self.ray.kill(actor)
        queue.check()

    def _launch(self, place: int) -> None:
        self.actors[place] = self.kind.remote()
        # Started by calls of their own: an actor whose __init__ fails could not tell why.
        self._await(self.actors[place].be_there.remote(), _Awaited(place, "be there"))

    def _await(self, reference: Any, one: _Awaited) -> None:
        self.awaited[reference] = one

    def _give(self, queue: Tries[Any]) -> None:
        while self.idle and len(queue):
            number, job = queue.next()
            place = self.idle.pop()
            self._await(self.actors[place].run.remote(job), _Awaited(place, "job", number))

    def _replace(self, one: _Awaited, why: str, queue: Tries[Any]) -> None:
        self.ray.kill(self.actors.pop(one.place))  # it may only be out of reach: two must not write to one store
        if one.what == "job":
            queue.lost(one.job, why)
        else:
            self.losses[one.place] += 1
            log(f"warning: an actor was lost while it started ({why})")
        self._check()  # it may have been the cluster
        if len(queue) and self.losses[one.place] < self.executor.tries:
            self._launch(one.place)

    def _check(self) -> None:
        """Whether there is anything left to wait for.

        Raises:
            SiftuneError: no machine is left, or no actor came to be within the limit and none works.
        """
        try:
            why, nodes = "", self.ray.nodes()
        except Exception as error:  # whatever Ray raises when its head is gone
            why, nodes = f"Ray says: {first_line(error)}", []
        if not any(node["Alive"] for node in nodes):
            raise SiftuneError("no machine of the Ray cluster is left", where="--executor ray", why=why or None,
                               hint="run the same command again; what is finished is kept")
        waits = [time.monotonic() - one.since for one in self.awaited.values() if one.what == "be there"]
        if waits and len(waits) == len(self.awaited) and min(waits) > self.executor.start_seconds:
            raise SiftuneError(
                f"no actor came to be within {self.executor.start_seconds:g} s", where="--executor ray",
                why="The cluster has no room for one, or its machines are too busy to start one.",
                hint="give more time with --ray-start-seconds, or fewer --workers; what is finished is kept")


class _Worker:
    """What an actor is. A mistake of the user's comes back as a value, since Ray would wrap it into a traceback."""

    def __init__(self) -> None:
        self._task: Any = None

    def be_there(self) -> tuple[Any, SiftuneError | None]:
        return None, None

    def begin(self, start: Callable[[int], Callable[[Any], Any]], number: int, threads: int, folder: str,
              sign: str) -> tuple[Any, SiftuneError | None]:
        # Read when torch is imported, which takes seconds: a task that computes nothing with it does without.
        os.environ["OMP_NUM_THREADS"] = str(threads)
        silence()
        for path in (folder, sign):
            if path and not Path(path).exists():
                return None, ConfigError(f"a worker on {socket.gethostname()} does not see {Path(path).parent}",
                                         where="--executor ray", why="Workers write their results into the run folder.",
                                         hint="give an --output-dir on a disk that all machines share, or --storage "
                                              "with a bucket that all of them reach")
        if folder:
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


class _Lost(Exception):  # noqa: N818 - it names a state
    """The actor is gone, with its process or its machine; the text says how."""


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
        raise _Lost(f"Ray says: {first_line(died)}") from died
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
def _connected(ray: Any, workers: int, start_seconds: float) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    if os.environ.get("RAY_ADDRESS"):
        where: dict[str, Any] = {"address": "auto"}
    else:  # "local": or it would join whatever runs on this machine
        where = {"address": "local", "num_cpus": max(os.cpu_count() or 1, workers),
                 "_system_config": {"worker_register_timeout_seconds": max(60, int(start_seconds))}}
    until = time.monotonic() + start_seconds
    while True:
        try:
            ray.init(**where, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
            break
        except Exception as error:  # Ray raises its own, ConnectionError, RuntimeError, ValueError and bare ones
            ray.shutdown()
            slow = "address" in where and where["address"] == "local" and "timed out" in str(error)
            if slow and time.monotonic() < until:  # it waits for half a minute, whatever it is told
                log("warning: this machine is too busy to start Ray within its limit: once more")
                continue
            raise ConfigError(
                "Ray did not start" if slow else "cannot connect to Ray",
                where=os.environ.get("RAY_ADDRESS") or "--executor ray", why=first_line(error),
                hint=f"give more time than {start_seconds:g} s with --ray-start-seconds" if slow else HINT_ADDRESS,
            ) from error
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

    sign = make_folder(folder).absolute() / f".seen-{secrets.token_hex(8)}.tmp"  # swept as such where this is killed
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
