"""What a plan says, and what it is told rather than measures."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from siftune._common.errors import ConfigError
from siftune._common.progress import about
from siftune._common.text import one_line

Kind = Literal["gradients", "training", "forward", "sentences"]
KINDS: tuple[Kind, ...] = ("gradients", "training", "forward", "sentences")

FORWARD = 3.0
"""How much faster a forward pass is than one with a backward pass, where only the latter's speed is given: two of three
multiplications are backward."""

PROBE_SHARE = 1 / 40
"""Of a step's tokens at most so many are tried, so that the plan costs a small part of the run."""

WORTH_CHANGING = 60.0  # seconds in all, below which nothing is advised


@dataclass(frozen=True)
class Speeds:
    """Tokens a second that are known beforehand, in each process; None where they are measured.

    Attributes:
        gradients: of passes with gradients, projection included.
        training: of optimizer steps.
        forward: of passes without gradients.
        sentences: of the sentence-embedding model.
    """

    gradients: float | None = None
    training: float | None = None
    forward: float | None = None
    sentences: float | None = None

    @classmethod
    def parse(cls, text: str) -> Speeds:
        """Speeds as they are written: a number for gradients, or ``gradients=900,forward=2700``.

        What is not named follows from gradients (training: the same, forward: three times) or is measured.

        Raises:
            ConfigError: no such kind, or no speed.
        """
        given: dict[str, float] = {}
        for part in text.split(","):
            kind, _, number = part.rpartition("=")
            kind = kind.strip() or "gradients"
            try:
                speed = float(number)
            except ValueError:
                speed = math.nan
            if kind not in KINDS or not 0 < speed < math.inf or kind in given:
                raise ConfigError(f"no speed: {part.strip()!r}", where="--tokens-per-second",
                                  hint="give a number, as 900, or several, as gradients=900,forward=2700 (of "
                                       f"{', '.join(KINDS)})")
            given[kind] = speed
        speeds = cls(**given)
        if (known := speeds.gradients) is not None:
            speeds = replace(speeds, training=speeds.training or known, forward=speeds.forward or known * FORWARD)
        return speeds

    def of(self, kind: Kind) -> float | None:
        return getattr(self, kind)

    @property
    def spare_the_model(self) -> bool:
        """Whether nothing that runs the model is left to measure."""
        return None not in (self.gradients, self.training, self.forward)


MEASURED = Speeds()


@dataclass(frozen=True)
class Stage:
    """A step of a run.

    Attributes:
        name: of the step.
        seconds: wall time.
        on_device: whether the model's device is busy meanwhile.
        cheaper: which setting makes it cheaper, in words; empty where none does.
    """

    name: str
    seconds: float
    on_device: bool = True
    cheaper: str = ""


@dataclass
class Plan:
    """What a run will cost.

    Attributes:
        lines: (step, estimate in words).
        stages: what takes time, of everything that is not there yet.
        disk: bytes of features.
        warmups: the warmup runs among them; one serves all methods that ask for the same.
        memory: estimated peak resident bytes of the process that computes; of each, where there are several; 0 where
            it was not measured.
    """

    lines: list[tuple[str, str]] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    disk: int = 0
    memory: int = 0
    warmups: list[Any] = field(default_factory=list)
    _within: str = ""

    @property
    def seconds(self) -> float:
        """Estimated wall time."""
        return sum(stage.seconds for stage in self.stages)

    def add(self, name: str, told: str, seconds: float | None = None, *, on_device: bool = True,
            cheaper: str = "") -> None:
        """A line, and the stage that it tells of where that takes time."""
        name = self._within + name
        self.lines.append((name, told))
        if seconds is not None:
            self.stages.append(Stage(name, seconds, on_device, cheaper))

    @contextmanager
    def fixed(self, name: str) -> Iterator[None]:
        """Time what the run will do as well, whatever the number of rows."""
        start = time.monotonic()
        yield
        self.stages.append(Stage(name, time.monotonic() - start, on_device=False))

    @contextmanager
    def within(self, part: str) -> Iterator[None]:
        """The lines of a part are called by it."""
        before, self._within = self._within, f"{part}: "
        try:
            yield
        finally:
            self._within = before

    def finish(self, device: str, workers: int) -> None:
        """Add what is to be said of the whole.

        Args:
            device: of the model.
            workers: processes that share the passes.
        """
        once = sum(stage.seconds for stage in self.stages if not stage.on_device)
        self.lines.append(("start", f"{about(once)}: rows are read" + ", the model is loaded" * any(
            stage.name == "loading" for stage in self.stages)))
        self.lines.append(("total", f"{about(self.seconds)}, less what an earlier run has left"))
        busy = sum(stage.seconds for stage in self.stages if stage.on_device)
        if not device.startswith(("cpu", "mps")):
            self.lines.append(("GPU time", f"{busy * workers / 3600:,.2f} GPU-hours"))
        longest = max(self.stages, key=lambda stage: stage.seconds, default=None)
        if longest and longest.cheaper and self.seconds >= WORTH_CHANGING:
            self.lines.append(("change first", f"{longest.name}, {longest.seconds / self.seconds:.0%} of the time: "
                                               f"{longest.cheaper}"))

    def __str__(self) -> str:
        return self.text()

    def text(self) -> str:
        width = max(len(name) for name, _ in self.lines)
        return "\n".join(f"{one_line(name):{width}}  {one_line(told)}" for name, told in self.lines)


def peak_memory() -> int:
    """Peak resident bytes of this process so far."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def resident_memory() -> int:
    """Resident bytes of this process now; their peak where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return peak_memory()


def first_rows(order: list[int], lengths: np.ndarray, enough: float, most: int = 32) -> tuple[list[int], list[int]]:
    """(the first rows that come to so many tokens together, but at most so many rows and one at least; the others)"""
    count = 1 + int(np.searchsorted(np.cumsum(lengths[order[:most]])[:-1], enough, side="left"))
    return order[:count], order[count:]


def timed(run: Callable[[list[int]], object], order: list[int], lengths: np.ndarray, enough: float,
          most_seconds: float) -> tuple[int, float]:
    """(tokens, seconds) of a step on some rows, one at least, until either is enough.

    Args:
        run: the step.
        order: of the rows that may be tried.
        lengths: int64 [N] tokens of every row.
        enough: tokens after which to stop.
        most_seconds: likewise.
    """
    done, seconds = 0, 0.0
    while order and (not done or (done < enough and seconds < most_seconds)):
        rows, order = first_rows(order, lengths, enough - done)
        start = time.monotonic()
        run(rows)
        seconds += time.monotonic() - start
        done += int(lengths[rows].sum())
    return done, max(seconds, 1e-6)


def size(bytes_: float) -> str:
    return f"{bytes_ / 2**20:,.1f} MiB" if bytes_ < 2**30 else f"{bytes_ / 2**30:,.2f} GiB"
