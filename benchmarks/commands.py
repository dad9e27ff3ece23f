"""A command of siftune as a process of its own: what it took, and what it printed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Ran:
    """What a command took.

    Attributes:
        seconds, cpu_seconds: of the whole process.
        peak: peak resident bytes.
        told: what it printed.
    """

    seconds: float
    cpu_seconds: float
    peak: int
    told: str


def run(arguments: list[str]) -> Ran:
    """Run ``siftune`` with these arguments.

    Raises:
        SystemExit: it failed.
    """
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen([sys.executable, "-m", "siftune", *arguments], stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        out.seek(0)
        told = out.read()
    if status:
        raise SystemExit(f"siftune {' '.join(arguments)} failed")
    return Ran(time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, told)
