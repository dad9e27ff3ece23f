"""Workers that are killed by chosen jobs, in the processes where they really run."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any


class Deadly:
    """A task that kills its process (SIGKILL) before chosen jobs.

    Args:
        worker: number of the worker.
        start: of the task itself.
        kills: part of a job's title -> how often it kills.
        folder: where it is noted how often that was.
    """

    def __init__(self, worker: int, *, start: Callable[[int], Callable[[Any], Any]], kills: dict[str, int],
                 folder: str):
        self.kills, self.folder, self.task = kills, Path(folder), start(worker)

    def __call__(self, job: Any) -> Any:
        for number, (part, times) in enumerate(self.kills.items()):
            if part in job.title and (count := len(list(self.folder.glob(f"{number}-*")))) < times:
                (self.folder / f"{number}-{count}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return self.task(job)

    def close(self) -> None:
        getattr(self.task, "close", lambda: None)()


def deadly(executor: Any, kills: dict[str, int], folder: Path) -> Any:
    """The same executor, of workers that chosen jobs kill; one that works in this process is left as it is.

    Args:
        executor: local or of Ray.
        kills: see :class:`Deadly`.
        folder: see :class:`Deadly`; made here.
    """
    if not executor.elsewhere:
        return executor
    folder.mkdir(exist_ok=True)

    class DeadlyExecutor(type(executor)):  # type: ignore[misc]
        def map(self, start: Callable[[int], Callable[[Any], Any]], jobs: Iterable[Any]) -> Iterator[Any]:
            yield from super().map(partial(Deadly, start=start, kills=kills, folder=str(folder)), jobs)

    made = replace(executor)
    object.__setattr__(made, "__class__", DeadlyExecutor)
    return made
