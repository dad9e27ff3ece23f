"""Jobs that lose their worker: each goes to another one, until it has cost too many; the others go on meanwhile.

A worker may be killed for something that is not its job's fault (the machine had too little memory, a node was lost),
so its job is tried again, after all that were never tried. A job that loses worker after worker is set aside, so that
it ends neither the run nor every worker, and is named at the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar

from siftune._common.errors import SiftuneError
from siftune._common.progress import log

TRIES = 2
"""How many workers a job may cost, where nothing else is said."""

Job = TypeVar("Job")


class SetAside(SiftuneError):  # noqa: N818 - it names a state, which the caller decides about
    """All jobs are done but those that lost their workers; ``jobs`` are they, ``reasons`` how the last one ended."""

    def __init__(self, jobs: Sequence[Any], reasons: Sequence[str], tries: int):
        self.jobs, self.reasons, self.tries = list(jobs), list(reasons), tries
        names = [f"{title_of(job)} ({reason})" for job, reason in zip(self.jobs, self.reasons, strict=True)]
        super().__init__(
            f"{len(names)} job{'s' if len(names) > 1 else ''} lost the worker {times(tries)}", where="--workers",
            why="; ".join(names), hint=HINT)


HINT = ("most likely there was too little memory: run the same command again with fewer --workers or --batch-tokens; "
        "what is finished is kept")


class Tries(Generic[Job]):
    """The jobs that are still to be done.

    Args:
        jobs: in the order in which they are first tried.
        limit: how many workers a job may cost.
    """

    def __init__(self, jobs: Iterable[Job], limit: int):
        self._jobs, self.limit = list(jobs), limit
        self._waiting = deque(range(len(self._jobs)))
        self._lost: dict[int, list[str]] = {}
        self._set_aside: list[int] = []

    def __len__(self) -> int:
        """How many wait for a worker."""
        return len(self._waiting)

    def next(self) -> tuple[int, Job]:
        """The number and the job that is to be tried next."""
        number = self._waiting.popleft()
        return number, self._jobs[number]

    def lost(self, number: int, why: str) -> None:
        """The worker of a job is gone.

        Args:
            number: of the job.
            why: how it ended, for example "killed by SIGKILL".
        """
        reasons = self._lost.setdefault(number, [])
        reasons.append(why)
        title = title_of(self._jobs[number])
        if len(reasons) < self.limit:
            self._waiting.append(number)
            log(f"warning: the worker of {title} was lost ({why}): another one takes it over")
        else:
            self._set_aside.append(number)
            log(f"warning: {title} lost its worker {times(self.limit)} ({why}) and is set aside")

    def check(self) -> None:
        """Say what is missing, at the end.

        Raises:
            SetAside: some were.
        """
        if self._set_aside:
            jobs = sorted(self._set_aside)
            raise SetAside([self._jobs[i] for i in jobs], [self._lost[i][-1] for i in jobs], self.limit)


def title_of(job: Any) -> str:
    """What a job is called: its ``title``, where it has one."""
    return str(getattr(job, "title", "") or "a job")


def times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
